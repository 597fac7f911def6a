
# What follows "uplane run LANE" is another program's to complete. The functions above would have its files only, and
# run what stands there in (...).
function __uplane_program_at
    set -l words (commandline -opc)
    test "$words[2]" = run; or return 1
    set -l at 3
    while string match -qr -- '^--.' "$words[$at]"
        set at (math $at + 1)
    end
    set at (math $at + 1)
    test "$words[$at]" = --; and set at (math $at + 1)
    test $at -le (math (count $words) + 1); and echo $at
end

function __uplane_complete_program
    set -l at (__uplane_program_at)
    set -l words (commandline -opc)
    complete -C (string join ' ' -- (string escape -- $words[$at..-1]) (commandline -ct))
end

functions -e __uplane_itself
functions -c __uplane_perform_completion_once __uplane_itself
function __uplane_perform_completion_once
    not __uplane_program_at >/dev/null; and __uplane_itself
end
complete -c uplane -n '__uplane_program_at >/dev/null' -x -a '(__uplane_complete_program)'
