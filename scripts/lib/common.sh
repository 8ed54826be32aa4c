# shellcheck shell=bash
# Shared by the scripts: messages, and the one place that knows which Debian package brings which program.
# Sourced, never run.

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# package:program, for programs that the scripts and the end-to-end tests start.
PROGRAMS="
docker.io:dockerd
docker.io:docker
containerd:containerd
docker-registry:docker-registry
podman:podman
containernetworking-plugins:/usr/lib/cni/bridge
busybox-static:busybox
iproute2:ip
iptables:iptables
openssh-server:sshd
openssh-client:ssh
openssl:openssl
curl:curl
tar:tar
python3:python3
python3-pip:pip3
util-linux:nsenter
gcc:cc
nodejs:node
npm:npm
"

missing_packages() {
  local pair
  for pair in $PROGRAMS; do
    command -v "${pair#*:}" >/dev/null || printf '%s\n' "${pair%%:*}"
  done | sort -u
}

# A test run must not open ports on the machine it runs on, so the services that come with the packages (Docker, the
# registry, sshd) are kept from starting: the cluster starts its own, in its own namespaces. Run in a subshell.
apt_install_without_services() { # PACKAGE…
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    # shellcheck disable=SC2064 # the path is meant now
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o=Dpkg::Use-Pty=0 --no-install-recommends "$@"
}

install_missing() {
  local packages
  packages=$(missing_packages | tr '\n' ' ')
  [ -n "$packages" ] || return 0
  [ "$(id -u)" = 0 ] || die "these Debian packages are missing: $packages. Install them, or run this as root and it will"
  command -v apt-get >/dev/null || die "these Debian packages are missing: $packages, and there is no apt-get here to install them with"
  say "installing: $packages"
  (apt_install_without_services $packages) >&2 || die "apt-get could not install: $packages"
  packages=$(missing_packages | tr '\n' ' ')
  [ -z "$packages" ] || die "installed, and yet something is missing of: $packages (is /usr/sbin on the PATH?)"
}
