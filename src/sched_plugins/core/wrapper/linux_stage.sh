# Copying an attempt's files, with s5cmd or else the AWS CLI. Both get addresses and paths as arguments, and copy
# whole folders at once; neither reads a file's name from text.

find_tool() {
    if command -v s5cmd >/dev/null; then
        tool=s5cmd
    elif command -v aws >/dev/null; then
        tool=aws
    else
        fail 223 'the worker has neither s5cmd nor the AWS CLI, one of which copies files to and from S3'
    fi
    endpoint=${S3_ENDPOINT_URL:-${AWS_ENDPOINT_URL_S3:-${AWS_ENDPOINT_URL:-}}}
}

# Runs a tool up to three times; its stdout goes to "list", its stderr to "log".
transfer() {
    for pause in 1 3 0; do
        (
            [ -z "$endpoint" ] || export S3_ENDPOINT_URL="$endpoint"
            exec "$@"
        ) </dev/null >"$dir/list" 2>"$dir/log" 9>&- &
        wait "$!" && return 0
        if [ "$pause" = 0 ] || grep -q 'no object found' "$dir/log"; then
            break
        fi
        sleep "$pause" &
        wait "$!"
    done
    return 1
}

failure() { # what the tool said, in one line; a long message has its point at the end
    printf '%s: ' "$tool"
    {
        head -c 250 "$dir/log"
        [ "$(wc -c <"$dir/log")" -le 250 ] || {
            printf ' ... '
            tail -c +251 "$dir/log" | tail -c 400
        }
    } | tr '\n' ' '
}

# input ADDRESS SUBDIRECTORY SLASHES REQUEST: copies a folder. SLASHES is how many slashes its key has, REQUEST the
# ListObjectsV2 request for it.
input() {
    to=$work${2:+/$2}
    mkdir -p -- "$to" || fail 223 "the directory $to could not be made"
    if [ "$tool" = s5cmd ]; then
        check_keys "$1" $(($3 + 3)) s5cmd --json ls "$1*"
    else
        check_keys "$1" "$3" aws s3api list-objects-v2 --output json --query 'Contents[].Key' --cli-input-json "$4"
    fi || return 0
    case $tool$1 in
    aws*)
        transfer aws s3 cp --recursive --only-show-errors \
            --exclude '_sched/attempts/*' --exclude '*/_sched/attempts/*' "$1" "$to/" &&
            # It reads the folder's own * and ? as part of these patterns, which then may not match.
            find "$to" -path '*/_sched/attempts' -prune -exec rm -rf -- {} +
        ;;
    *[*?]*) input_with_wildcards "$1" "$to" ;;
    *) fetch_folder "$1" "$to" ;;
    esac || fail 223 "the input $1 could not be fetched: $(failure)"
}

fetch_folder() {
    transfer s5cmd --log error cp --exclude '*/' --exclude '_sched/attempts/*' --exclude '*/_sched/attempts/*' \
        "$1*" "$2/"
}

# s5cmd reads * and ? in the address of a folder as wildcards. So this copies what they match, starting at the last
# folder without one, and keeps what lies in the folder meant.
input_with_wildcards() {
    plain=${1%%[*?]*}
    plain=${plain%/*}/
    mkdir -- "$dir/matches"
    fetch_folder "$1" "$dir/matches" || return 1
    (cd -- "$dir/matches/${1#"$plain"}" && find . ! -name . -prune -exec sh -c 'mv -- "$@" "$0"' "$2/" {} +) \
        2>>"$dir/log" || return 1
    rm -rf -- "$dir/matches"
}

# check_keys ADDRESS SLASHES COMMAND...: whether the folder has files. COMMAND prints the keys as JSON strings, one a
# line. Refused are, after the folder's own slashes, a part that is empty, "." or "..", which would lead out of the
# directory or to another key's file; a folder that has content; and a part of more than 255 bytes.
check_keys() {
    address=$1 slashes=$2
    shift 2
    if ! transfer "$@"; then
        grep -q 'no object found' "$dir/log" && return 1
        fail 223 "the input $address could not be listed: $(failure)"
    fi
    bad=$(LC_ALL=C grep -m1 -E \
        -e "^([^/]*/){$slashes}(([^\"\\\\]|\\\\.)*/)?(\.{0,2}/|\.{1,2}\"|([^\"\\\\]|\\\\.)*/\",.*\"size\":[1-9])" \
        -e '([^/"\\]|\\u[0-9a-f]{4}|\\.){256}' "$dir/list" | head -c 1500)
    [ -z "$bad" ] || fail 223 "the input $address has a key that cannot be a file's path: $bad"
    [ -s "$dir/list" ] && ! grep -qx '\[\]\|null' "$dir/list"
}

stage_in() {
    find_tool
    inputs
    case $executable in
    s3://*)
        program=$work/$executable_path
        if [ -z "$executable_is_input" ]; then
            [ ! -d "$program" ] || fail 223 "the inputs have a folder with the name of the executable: $executable_path"
            if [ "$tool" = s5cmd ]; then
                transfer s5cmd --log error cp --raw "$executable" "$program"
            else
                transfer aws s3 cp --only-show-errors "$executable" "$program"
            fi || fail 223 "the executable $executable could not be fetched: $(failure)"
        fi
        ;;
    *) program=$executable ;;
    esac
    [ -f "$program" ] || fail 223 "there is no executable $executable"
    [ -x "$program" ] || chmod +x "$program" || fail 223 "$executable could not be made executable"
    snapshot before
}

# Size, time of change, file number and path of every file.
snapshot() {
    (cd -- "$work" && find . -type f -printf '%s %T@ %i %p\0') 2>/dev/null | LC_ALL=C sort -z >"$dir/$1"
}

# Leaves in the directory what the job wrote or changed, as regular files. A link to a file inside is followed, any
# other is dropped. The names of _sched are the scheduler's: a job must not write its own manifest.
leave_results() {
    cd -- "$work" || return 1
    find . -name _sched -prune -exec rm -rf -- {} +
    find . -type l -exec sh -c '
        for link do
            target=$(readlink -f -- "$link")
            rm -f -- "$link"
            case $target in
            "$0"/*) [ ! -f "$target" ] || ln -- "$target" "$link" || cp -p -- "$target" "$link" ;;
            esac
        done' "$(pwd -P)" {} +
    find . ! -type f ! -type d -exec rm -f -- {} +
    snapshot after
    LC_ALL=C comm -z -12 "$dir/before" "$dir/after" | cut -z -d ' ' -f 4- | xargs -0 rm -f --
    cd /
}

output() { # output ADDRESS: copies what the job wrote
    if [ "$tool" = s5cmd ]; then
        transfer s5cmd --log error cp --raw --metadata "sched-run-id=$writer_run" \
            --metadata "sched-environment=$writer" "$work/" "$1"
    else
        transfer aws s3 cp --recursive --only-show-errors \
            --metadata "sched-run-id=$writer_run,sched-environment=$writer" "$work/" "$1"
    fi && return 0
    say "the results could not be stored in $1: $(failure)"
    return 1
}

stage_out() {
    leave_results
    [ -n "$(find "$work" -type f | head -c 1)" ] || return 0
    if [ "$code" != 0 ] || [ -n "$exit" ]; then
        output "${SCHED_OUTPUT_URI}_sched/attempts/$SCHED_ATTEMPT/"
    elif ! outputs; then
        reason="the executable exited 0, but its results could not be stored: $(failure)"
        exit=224
    fi
}
