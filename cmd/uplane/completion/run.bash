
# What follows "uplane run LANE" is another program's to complete. The functions above would have its files only, and
# run what stands there in $(...).
__uplane_or_program() {
    local at=2
    if [[ ${COMP_WORDS[1]} == run ]]; then
        while [[ ${COMP_WORDS[at]} == --?* ]]; do ((at++)); done
        ((at++))
        [[ ${COMP_WORDS[at]} == -- ]] && ((at++))
    fi
    if [[ ${COMP_WORDS[1]} != run ]] || ((at > COMP_CWORD)); then
        __start_uplane
        # What it makes of no match, when all are to be inserted.
        [[ ${COMPREPLY[*]} != "''" ]] || COMPREPLY=()
    elif declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$at"
    elif declare -F _command_offset >/dev/null; then # before bash-completion 2.12
        _command_offset "$at"
    fi
}
complete -o default -F __uplane_or_program uplane
