# Shared by the scripts of this folder; sourced, not run. Sets top, the project's root.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "must be root, or have sudo, to run: $*"
  fi
}

# A package index that apt can install from; fresh images have none.
apt_update() {
  as_root apt-get update -q -o Acquire::Retries=3
}

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# install_packages KIND...: those of cluster/packages that are missing.
install_packages() {
  local kind name missing=()
  command -v apt-get >/dev/null ||
    die "this is no Debian: install what cluster/packages lists by your own means, then use cmake (see README.md)"
  while read -r kind name; do
    if [[ " $* " == *" $kind "* ]] && ! is_installed "$name"; then
      missing+=("$name")
    fi
  done <"$top/cluster/packages"
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "installing ${missing[*]}"
  apt_update >/dev/null || die "apt-get update failed: is the network there? what is wrong says: apt-get update"
  as_root apt-get install -q -y --no-install-recommends -o Acquire::Retries=3 "${missing[@]}"
}

# Open MPI as root and without a remote shell (containers), more ranks than cores, no pinning.
mpi_environment() {
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none
  # No search for X displays: without an /etc/hosts it waits seconds for a name server.
  export HWLOC_COMPONENTS=${HWLOC_COMPONENTS:--gl}
  # No word about a /sys that is not there.
  export HWLOC_HIDE_ERRORS=2
  command -v ssh >/dev/null || command -v rsh >/dev/null || export OMPI_MCA_plm=isolated
}
