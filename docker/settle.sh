#!/bin/sh
# One date for all that a step of an image's build writes: source this first, end with `settle`.
#
# What has another time in another build is only what was written since the step began; files of a
# package keep the time that the package gives them, which is the same for everybody. So nothing of
# an earlier layer is touched, which would copy it into this one. Not done by the exporter
# (rewrite-timestamp): it writes all layers anew each time, docs/adr/0011.
began=$(($(date +%s) - 1))

# settle [FOLDER...]: of these, which came from another stage, everything younger than the date too.
settle() {
    for place in "$@"; do
        find "$place" -newermt "@$SOURCE_DATE_EPOCH" -exec \
            touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
    done
    # What is mounted is not of the image, and not all of it can be written.
    set --
    while read -r _ _ _ _ target _; do
        if [ "$target" != / ]; then set -- "$@" ! -path "$target" ! -path "$target/*"; fi
    done </proc/self/mountinfo
    find / -xdev -newermt "@$began" "$@" -exec \
        touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +
}
