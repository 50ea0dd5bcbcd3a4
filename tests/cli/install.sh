#!/bin/bash
# install.sh BUILD SOURCE CMAKE CC SANITIZERS: installs into an empty prefix, moves the prefix, and uses what lies there
# as a stranger would: a C program by pkg-config and by find_package, every header alone in C and C++, the command, the
# pages and the completion.
set -euo pipefail
build=$1 source=$2 cmake=$3 cc=$4 flags=${5:+-fsanitize=$5}
work=$(mktemp -d "${TMPDIR:-/tmp}/ebb-install-XXXXXX")
trap 'rm -rf "$work"' EXIT
"$cmake" --install "$build" --prefix "$work/first" >"$work/log"
mv "$work/first" "$work/prefix"
prefix=$work/prefix
fail() { echo "FAILED: $*"; exit 1; }
export ASAN_OPTIONS=detect_leaks=0

lib=$(dirname "$(find "$prefix" -name 'libebb.so')")
[ -n "$lib" ] || fail "no libebb.so"
for file in bin/ebb include/ebb/ebb.h share/man/man1/ebb.1 share/man/man1/ebb-doctor.1 \
    share/bash-completion/completions/ebb "${lib#"$prefix"/}/pkgconfig/ebb.pc"; do
    [ -s "$prefix/$file" ] || fail "not installed: $file"
done

# private symbols stay private
private=$(nm -D --defined-only "$lib/libebb.so" | awk '{print $3}' | grep -vE '^(ebb_|_init|_fini|__|_edata|_end)' || true)
[ -z "$private" ] || fail "libebb.so exports $private"
"$prefix/bin/ebb" --version | grep -q '^ebb ' || fail "installed ebb does not start"
! readelf -d "$prefix/bin/ebb" "$lib/libebb.so" | grep -E 'R(UN)?PATH' | grep -qF "$build" || fail "a path of the build remains"

cat >"$work/use.c" <<'END'
#include <ebb/ebb.h>
#include <stdio.h>
int main(void)
{
    ebb_comm_t *comm;
    if (ebb_comm_self(&comm) != EBB_OK)
        return 1;
    printf("ebb %s, %d rank\n", ebb_version(), ebb_comm_size(comm));
    ebb_comm_destroy(comm);
    return EBB_FAIL(EBB_EDATA, "wanted") == EBB_EDATA ? 0 : 1;
}
END
wanted="$("$prefix/bin/ebb" --version), 1 rank"
export PKG_CONFIG_PATH=$lib/pkgconfig LD_LIBRARY_PATH=$lib
# shellcheck disable=SC2046,SC2086
"$cc" $flags "$work/use.c" -o "$work/by_pkg_config" $(pkg-config --cflags --libs ebb)
[ "$("$work/by_pkg_config")" = "$wanted" ] || fail "program built by pkg-config"

mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.22)
project(use C)
find_package(Ebb 0.1 REQUIRED CONFIG)
add_executable(use ../use.c)
target_link_libraries(use Ebb::ebb)
END
"$cmake" -S "$work/project" -B "$work/project/build" -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" \
    -DCMAKE_PREFIX_PATH="$prefix" >"$work/log"
"$cmake" --build "$work/project/build" >"$work/log" || { cat "$work/log"; fail "program built by find_package"; }
[ "$(LD_LIBRARY_PATH='' "$work/project/build/use")" = "$wanted" ] || fail "program built by find_package"

# the C example, from where it was installed
example=$(find "$prefix" -path '*/examples/epoch.c')
[ -s "$example" ] || fail "not installed: examples/epoch.c"
# shellcheck disable=SC2046,SC2086
"$cc" $flags -Wall -Wextra -Werror "$example" -o "$work/epoch" $(pkg-config --cflags --libs ebb)
for kind in sparse dense; do
    "$work/epoch" "$source/tests/format/shard-1/$kind" 2 | grep -q '^60 rows in 1 batches' || fail "the C example on $kind data"
done
! "$work/epoch" "$work/nothing" 2>"$work/log" || fail "the C example takes a data set that is not there"
grep -q 'no such file' "$work/log" || fail "the C example does not say what is missing"

# the Python module, by the prefix alone; libebb itself is found from where the module lies
module=$(dirname "$(dirname "$(find "$prefix" -path '*/ebb/__init__.py')")")
[ -s "$module/ebb/torch.py" ] || fail "not installed: ebb/torch.py"
[ ! -e "$module/ebb/__pycache__" ] || fail "__pycache__ is installed"
if command -v python3 >/dev/null && [[ $flags != *thread* ]]; then
    preload=$(case $flags in *address*) "$cc" -print-file-name=libasan.so ;; esac)
    rows=$(LD_LIBRARY_PATH='' PYTHONPATH=$module PYTHONDONTWRITEBYTECODE=1 LD_PRELOAD=$preload python3 -c '
import sys, ebb
assert ebb.library_path.startswith(sys.argv[1]), ebb.library_path
print(len(ebb.open(sys.argv[2])))' "$prefix" "$source/tests/format/shard-1/sparse") || fail "import ebb"
    [ "$rows" = 60 ] || fail "import ebb"
fi

for header in "$prefix"/include/ebb/*.h; do
    echo "#include <ebb/$(basename "$header")>" >"$work/alone.c"
    "$cc" -std=c17 -Wall -Wextra -Werror -I"$prefix/include" -fsyntax-only "$work/alone.c" || fail "$header alone in C"
    if command -v c++ >/dev/null; then
        c++ -x c++ -Wall -I"$prefix/include" -fsyntax-only "$work/alone.c" || fail "$header alone in C++"
    fi
done

# the filter is found where doctor says
if ls "$lib"/ebb/hdf5-plugin/*.so >/dev/null 2>&1; then
    unset HDF5_PLUGIN_PATH
    "$prefix/bin/ebb" doctor | grep -q '^zstd filter *ok' || fail "doctor does not find the installed filter"
fi
echo "installed, moved and used"
