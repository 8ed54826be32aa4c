# shellcheck shell=bash
# The runner images, built from what is on this machine: no registry is asked for anything. Sourced by `cluster`.
#   slugrunner         busybox: a shell, tar, wget, httpd. A megabyte, for most tests
#   slugrunner-python  the same and this machine's Python 3, for real third-party apps

LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

rootfs_small() { # DIR
  mkdir -p "$1"/{bin,dev,etc,proc,sys,root,tmp,runner,usr/bin,var}
  chmod 1777 "$1/tmp"
  cp "$(command -v busybox)" "$1/bin/busybox"
  local applet
  for applet in $("$1/bin/busybox" --list); do [ "$applet" = busybox ] || ln -sf busybox "$1/bin/$applet"; done
  install -m 755 "$LIB/runner-init" "$1/runner/init"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/app:/bin/sh\n' >"$1/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
}

# Copies Debian's Python, its standard library and every shared library these name, at the same paths.
rootfs_python() { # DIR
  local python=/usr/bin/python3 version file libraries
  libraries=/lib/$(uname -m)-linux-gnu
  [ -x "$python" ] || die "Debian's python3 is missing: apt-get install python3"
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  rootfs_small "$1"
  mkdir -p "$1/usr/lib"
  cp "/usr/bin/$version" "$1/usr/bin/$version"
  ln -sf "$version" "$1/usr/bin/python3"
  tar -C /usr/lib --exclude=__pycache__ --exclude=dist-packages --exclude=test --exclude=tkinter --exclude=idlelib \
    --exclude="config-*" -cf - "$version" | tar -C "$1/usr/lib" -xf -
  { ldd "/usr/bin/$version"; find "/usr/lib/$version/lib-dynload" -name '*.so' -exec ldd {} +; } 2>/dev/null |
    grep -o '/[^ ]*\.so[^ ]*' | sort -u | while read -r file; do
    case $file in "/usr/lib/$version"/*) continue ;; esac
    mkdir -p "$1${file%/*}"
    cp -L "$file" "$1$file"
  done
  # Wheels name these, though neither Python nor its library does: the C++ library, and parts of glibc that once stood alone.
  for file in libgcc_s.so.1 libstdc++.so.6 libpthread.so.0 libdl.so.2 librt.so.1 libutil.so.1 libm.so.6 libresolv.so.2; do
    [ ! -e "$libraries/$file" ] || cp -L "$libraries/$file" "$1$libraries/$file"
  done
}

# Prints the path of the image's tar; it is made once and kept, keyed by what it is made of.
runner_tar() { # slugrunner | slugrunner-python
  local cache=${CLUSTER_CACHE:-/var/tmp/captain-e2e-cache} key tar work
  key=$(cat "$LIB/runner-init" "$LIB/images.sh" "$(command -v busybox)" "$(readlink -f /usr/bin/python3)" | sha256sum | cut -c1-16)
  tar=$cache/$1-$key.tar
  if [ ! -f "$tar" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/build.XXXXXX")
    case $1 in
      slugrunner) rootfs_small "$work/root" ;;
      slugrunner-python) rootfs_python "$work/root" ;;
      *) rm -rf "$work"; die "no such runner image: $1 (slugrunner, slugrunner-python)" ;;
    esac
    tar -C "$work/root" --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 -cf "$work/tar" .
    mv "$work/tar" "$tar"
    rm -rf "$work"
  fi
  printf '%s\n' "$tar"
}
