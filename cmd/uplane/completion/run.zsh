# What follows "uplane run LANE" is another program's to complete. The function above would have its files only, and
# run what stands there in $(...).
functions[__uplane_itself]=$functions[_uplane]
_uplane()
{
    local at=3
    if [[ $words[2] == run ]]; then
        while [[ $words[at] == --?* ]]; do (( at++ )); done
        (( at++ ))
        [[ $words[at] == -- ]] && (( at++ ))
        if (( at <= CURRENT )); then
            words=("${(@)words[at,-1]}")
            (( CURRENT -= at - 1 ))
            _normal
            return
        fi
    fi
    __uplane_itself "$@"
}

