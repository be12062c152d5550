#!/usr/bin/env bash
# setup.sh: installs by apt what building and testing weir needs and this machine lacks.
#
#     tools/setup.sh tools    what it takes to build the programs
#     tools/setup.sh build    and clang, doctest and Google Benchmark
#     tools/setup.sh all      and the programs that the tests play against
#
# Runs as root or with sudo; without either it prints the command to run. tools/check and tools/demo use it.

set -euo pipefail
exec </dev/null

program() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }
header() { [ -e "/usr/include/$1" ]; }
clang_runtime() { compgen -G '/usr/lib/llvm-14/lib/clang/*/lib/linux/libclang_rt.asan*' >/dev/null; }
postgres() { program psql && compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

# "package | how to see that it is there"
packages=(
    'g++        | program g++'
    'meson      | program meson'
    'ninja-build| program ninja'
    'python3    | program python3'
    'pkg-config | program pkg-config'
)
for_build=(
    'clang-14        | program clang++-14'
    'doctest-dev     | header doctest/doctest.h'
    'libbenchmark-dev| header benchmark/benchmark.h'
)
for_all=(
    'nginx-light       | program nginx'
    'haproxy           | program haproxy'
    'curl              | program curl'
    'wrk               | program wrk'
    'apache2-utils     | program ab'
    'socat             | program socat'
    'redis-server      | program redis-server'
    'redis-tools       | program redis-benchmark'
    'postgresql        | postgres'
    'iproute2          | program ip'
    'nftables          | program nft'
    'strace            | program strace'
    'valgrind          | program valgrind'
    'procps            | program ps'
    'libclang-rt-14-dev| clang_runtime'
    'llvm-14           | program llvm-symbolizer-14'
)
case ${1:-} in
tools) ;;
build) packages+=("${for_build[@]}") ;;
all) packages+=("${for_build[@]}" "${for_all[@]}") ;;
*)
    echo "usage: tools/setup.sh tools|build|all" >&2
    exit 2
    ;;
esac

missing_packages() {
    local entry
    for entry in "${packages[@]}"; do
        ${entry#*|} || echo ${entry%|*} # unquoted, to be taken apart into words
    done
}

# Runs apt without questions, and without starting the services (nginx, haproxy) that come with a package.
install() {
    local sudo=()
    local command="apt-get update && apt-get install -y --no-install-recommends $*"
    if [ "$(id -u)" != 0 ]; then sudo=(sudo -n); fi
    if ! program apt-get || ! "${sudo[@]}" true 2>/dev/null; then
        echo "tools/setup.sh: missing: $*" >&2
        echo "run as root: $command" >&2
        exit 1
    fi

    printf '\n== installing %s\n' "$*"
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        # However this ends: left behind, it would keep every service from being started.
        trap "${sudo[*]} rm -f $policy" EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
        "${sudo[@]}" chmod +x $policy
    fi
    local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update || true # an index that cannot be had matters only if a package is in it
    "${apt[@]}" install -y --no-install-recommends "$@" || true

    mapfile -t missing < <(missing_packages)
    if [ ${#missing[@]} -gt 0 ]; then
        echo "tools/setup.sh: still missing: ${missing[*]}" >&2
        echo "run as root: $command" >&2
        exit 1
    fi
}

mapfile -t missing < <(missing_packages)
if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}"; fi
