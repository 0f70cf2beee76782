# bash completion for wslr; made from its table of options by a test.
_wslr() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local verb=${COMP_WORDS[1]} words=
    case $verb in
        --export)
            words="--format --vhd"
            [[ $COMP_CWORD -eq 2 && $current != -* ]] && words="$(wslr --list --quiet 2>/dev/null)"
            [[ $COMP_CWORD -eq 3 && $current != -* ]] && words="$(ls)"
            ;;
        --import)
            words="--version --vhd"
            [[ $COMP_CWORD -eq 2 && $current != -* ]] && words="$(true)"
            [[ $COMP_CWORD -eq 3 && $current != -* ]] && words="$(ls)"
            [[ $COMP_CWORD -eq 4 && $current != -* ]] && words="$(ls)"
            ;;
        --import-in-place)
            words=""
            [[ $COMP_CWORD -eq 2 && $current != -* ]] && words="$(true)"
            [[ $COMP_CWORD -eq 3 && $current != -* ]] && words="$(ls)"
            ;;
        --install)
            words="--distribution -d --from-file -f --location -l --name --no-distribution --no-launch -n --version --vhd-size"
            [[ $current != -* ]] && words="$(wslr --list --online --quiet 2>/dev/null)"
            ;;
        --list|-l)
            words="--all --running --quiet -q --verbose -v --online -o --json"
            ;;
        --manage)
            words="--set-default-user --move -m --resize -r --set-sparse -s --allow-unsafe --compact --clone --location -l --snapshot --restore --list-snapshots --delete-snapshot --json"
            [[ $current != -* ]] && words="$(wslr --list --quiet 2>/dev/null)"
            ;;
        --mount)
            words="--vhd --bare --name -n --type -t --options -o --partition -p"
            [[ $current != -* ]] && words="$(ls)"
            ;;
        --set-default|-s)
            words=""
            [[ $current != -* ]] && words="$(wslr --list --quiet 2>/dev/null)"
            ;;
        --set-default-version)
            words=""
            [[ $current != -* ]] && words="$(seq 2)"
            ;;
        --set-version)
            words=""
            [[ $COMP_CWORD -eq 2 && $current != -* ]] && words="$(wslr --list --quiet 2>/dev/null)"
            [[ $COMP_CWORD -eq 3 && $current != -* ]] && words="$(seq 2)"
            ;;
        --shutdown)
            words="--force"
            ;;
        --status)
            words="--json"
            ;;
        --terminate|-t)
            words=""
            [[ $current != -* ]] && words="$(wslr --list --quiet 2>/dev/null)"
            ;;
        --unmount)
            words=""
            [[ $current != -* ]] && words="$(ls)"
            ;;
        --unregister)
            words=""
            [[ $current != -* ]] && words="$(wslr --list --quiet 2>/dev/null)"
            ;;
        --version|-v)
            words="--json"
            ;;
        *)
            case $previous in
                --distribution|-d) words="$(wslr --list --quiet 2>/dev/null)" ;;
                *) [[ $COMP_CWORD -gt 1 && $current != -* ]] || words="--cd --distribution -d --distribution-id --user -u --exec -e --shell-type --debug-shell --help --export --import --import-in-place --install --list -l --manage --mount --set-default -s --set-default-version --set-version --shutdown --status --terminate -t --unmount --unregister --update --version -v" ;;
            esac
            ;;
    esac
    case $verb$previous in
        --install--from-file|--install-f|--install--location|--install-l) words= ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -o default -F _wslr wslr
