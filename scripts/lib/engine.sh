# shellcheck shell=bash
# One engine: a dockerd with a containerd, an address and a cgroup of its own, in a network namespace of its own.
# Sourced by `cluster`, which sets DIR, K, SUBNET, BRIDGE, CGROUP.
#
# A containerd per engine, because dockerd would otherwise share the machine's, if one runs, and two dockerds on one
# containerd stop each other's containers.

engine_dir() { printf '%s\n' "$DIR/$1"; }
engine_number() { printf '%s\n' "${1#app-}"; }
engine_address() { printf '%s.%d\n' "$SUBNET" $((10 + $(engine_number "$1"))); }
engine_netns() { printf 'captain-%s-%s\n' "$K" "$1"; }
engine_veth() { printf 'capt%sn%s\n' "$K" "$(engine_number "$1")"; }
engine_pid() { cat "$DIR/$1/dockerd.pid" 2>/dev/null; }
engine_has_tls() { [ -e "$DIR/$1/tls" ]; }
engine_has_ssh() { [ -e "$DIR/$1/ssh" ]; }

engine_uri() {
  if engine_has_tls "$1"; then printf 'https://%s:2376\n' "$(engine_address "$1")"; else printf 'tcp://%s:2375\n' "$(engine_address "$1")"; fi
}

engine_runs() { local pid; pid=$(engine_pid "$1") && grep -qs dockerd "/proc/$pid/cmdline"; } # a dead one not yet reaped has no command line
engine_hangs() { [ "$(cut -d' ' -f3 "/proc/$(engine_pid "$1")/stat" 2>/dev/null)" = T ]; }
engine_is_cut() { ip link show "$(engine_veth "$1")" 2>/dev/null | grep -q 'state DOWN'; }
engine_answers() { curl -fsS -m "${2:-2}" --unix-socket "$DIR/$1/docker.sock" http://engine/_ping >/dev/null 2>&1; }

engine_state() {
  if ! engine_runs "$1"; then echo down
  elif engine_hangs "$1"; then echo hung
  elif engine_is_cut "$1"; then echo cut
  elif engine_answers "$1"; then echo up
  else echo silent; fi
}

in_netns() { # NODE command…
  local node=$1; shift
  # nsenter, not `ip netns exec`: that one mounts /sys anew, and dockerd then finds no cgroups.
  nsenter --net="/run/netns/$(engine_netns "$node")" "$@"
}

# Starts a program that outlives this script: own session, no inherited lock, output to a file.
daemon() { # LOG NODE command…
  local log=$1 node=$2; shift 2
  in_netns "$node" setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
  disown
}

engine_network() { # NODE
  local netns veth
  netns=$(engine_netns "$1") veth=$(engine_veth "$1")
  ip netns add "$netns"
  ip link add "$veth" type veth peer name eth0 netns "$netns"
  ip link set "$veth" master "$BRIDGE" up
  ip -n "$netns" link set lo up
  ip -n "$netns" addr add "$(engine_address "$1")/24" dev eth0
  ip -n "$netns" link set eth0 up
}

containerd_start() { # NODE
  local dir=$DIR/$1
  cat >"$dir/containerd.toml" <<TOML
version = 2
root = "$dir/containerd"
state = "$dir/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"
TOML
  daemon "$dir/containerd.log" "$1" containerd --config "$dir/containerd.toml" --log-level warn
}

dockerd_start() { # NODE
  local dir=$DIR/$1 tcp
  rm -f "$dir/dockerd.pid"
  [ -e "$dir/daemon.json" ] || echo '{}' >"$dir/daemon.json" # never the machine's own; tests change it
  if engine_has_tls "$1"; then
    tcp="--tlsverify --tlscacert=$DIR/tls/ca.pem --tlscert=$dir/tls/cert.pem --tlskey=$dir/tls/key.pem -H tcp://$(engine_address "$1"):2376"
  else
    tcp="--tls=false -H tcp://$(engine_address "$1"):2375" # said aloud, else newer engines wait 15 s before they start
  fi
  # shellcheck disable=SC2086 # words are meant
  daemon "$dir/dockerd.log" "$1" dockerd --config-file "$dir/daemon.json" --log-level warn --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" \
    --containerd "$dir/containerd.sock" -H "unix://$dir/docker.sock" $tcp --bip "172.30.$(engine_number "$1").1/24" \
    --insecure-registry "$SUBNET.0/24" --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$CGROUP/$1" --shutdown-timeout 2
}

engine_wait() { # NODE
  local tries=300
  until engine_answers "$1"; do
    [ $((tries -= 1)) -gt 0 ] || { tail -n 20 "$DIR/$1/dockerd.log" >&2; die "$1 did not answer within 30 s; the rest of its log is $DIR/$1/dockerd.log"; }
    sleep 0.1
  done
}

sshd_start() { # NODE
  local dir=$DIR/$1/ssh
  mkdir -p /run/sshd
  # The remote side of ssh:// talks to the default socket, so the variable says which engine is meant.
  cat >"$dir/sshd_config" <<CONF
ListenAddress $(engine_address "$1"):22
HostKey $dir/host_key
AuthorizedKeysFile $DIR/ssh/id.pub
PidFile $dir/sshd.pid
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
MaxStartups 100
UsePAM no
SetEnv DOCKER_HOST=unix://$DIR/$1/docker.sock
CONF
  daemon "$dir/sshd.log" "$1" "$(command -v sshd)" -D -e -f "$dir/sshd_config"
}

engine_start() { # NODE
  mkdir -p "$DIR/$1"
  [ -e "/run/netns/$(engine_netns "$1")" ] || engine_network "$1"
  containerd_start "$1"
  dockerd_start "$1"
  if engine_has_ssh "$1"; then sshd_start "$1"; fi
  engine_wait "$1"
}

# Every process of an engine: what runs in its namespace, and its containers, which have namespaces of their own.
engine_processes() { # NODE
  {
    ip netns pids "$(engine_netns "$1")"
    grep -ls "/$CGROUP/$1/" /proc/[0-9]*/cgroup | cut -d/ -f3
  } 2>/dev/null | sort -u
}

# Takes an engine away whatever state it is in, with all that it left on the machine.
engine_destroy() { # NODE
  local pids tries=50 dir=$DIR/$1
  while pids=$(engine_processes "$1"); [ -n "$pids" ]; do
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null
    [ $((tries -= 1)) -gt 0 ] || die "$1: these processes do not die:" $pids
    sleep 0.1
  done
  awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount" 2>/dev/null; done
  # The cable first: with its namespace it would go a little later, and stand in the way of a new one of that name.
  if ip link show "$(engine_veth "$1")" >/dev/null 2>&1; then ip link delete "$(engine_veth "$1")"; fi
  if [ -e "/run/netns/$(engine_netns "$1")" ]; then ip netns delete "$(engine_netns "$1")"; fi
  find /sys/fs/cgroup -depth -type d -path "*/$CGROUP/$1*" -exec rmdir {} + 2>/dev/null
  rm -rf "$dir"
}
