#!/bin/sh
# Install packages inside an image's build: sh apt-install.sh PACKAGE...
# Uses the host's apt sources and CA bundle where those came as secrets, and leaves nothing behind:
# what apt and ldconfig write beside the packages (logs, lists, caches) differs from build to build.
set -eu
# shellcheck source=/dev/null
if [ -s /run/secrets/net ]; then . /run/secrets/net; fi
# shellcheck source=/dev/null
. /etc/os-release
packages=$*
set -- -o Acquire::Retries=3
if [ -s /run/secrets/ca ]; then set -- "$@" -o Acquire::https::CAInfo=/run/secrets/ca; fi
if [ "$(head -n 1 /run/secrets/apt 2>/dev/null)" = "# $ID ${VERSION_CODENAME:-}" ]; then
    set -- "$@" -o Dir::Etc::sourcelist=/run/secrets/apt -o Dir::Etc::sourceparts=/dev/null
fi
# A mirror that the user named: the image's own sources, rewritten.
if [ -s /run/secrets/aptsed ]; then
    mkdir -p /tmp/apt/sources.list.d
    : >/tmp/apt/sources.list
    # A base has them in the one place, in the other, or in both; a copy that fails ends the build.
    if [ -f /etc/apt/sources.list ]; then cp /etc/apt/sources.list /tmp/apt/; fi
    if [ -d /etc/apt/sources.list.d ]; then cp -r /etc/apt/sources.list.d /tmp/apt/; fi
    find /tmp/apt -type f -exec sed -i -f /run/secrets/aptsed {} +
    set -- "$@" -o Dir::Etc::sourcelist=/tmp/apt/sources.list \
        -o Dir::Etc::sourceparts=/tmp/apt/sources.list.d
fi
export DEBIAN_FRONTEND=noninteractive
apt-get "$@" -o APT::Update::Error-Mode=any update
# shellcheck disable=SC2086 # one word a package
apt-get "$@" install --yes --no-install-recommends $packages
apt-get clean
find /var/log -type f -delete
rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/* /var/cache/debconf/*-old /tmp/* /var/tmp/*
