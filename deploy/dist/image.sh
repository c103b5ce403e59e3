#!/usr/bin/env bash
# Builds an OCI image without a daemon: PROGRAM on Debian's libc6 (with the libraries that it depends on) and
# ca-certificates, as user 65532, into the archive FILE. Needs apt and umoci (apt-get install umoci).
#   deploy/dist/image.sh PROGRAM FILE
set -euo pipefail
program=$(readlink -f "$1")
mkdir -p "$(dirname "$2")"
file=$(readlink -f "$(dirname "$2")")/$(basename "$2")
epoch=${SOURCE_DATE_EPOCH:-0}

fail() { echo "image: $*" >&2; exit 1; }
command -v umoci >/dev/null || fail "umoci is missing: apt-get install umoci"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$work/packages" "$root"/{etc/ssl/certs,tmp,usr/bin,var/lib/hookstream}
packages="libc6 libgcc-s1 ca-certificates"
cd "$work/packages"
# The download runs as another user where it can; this folder is ours.
download() { apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 download $packages >/dev/null; }
download || { apt-get update -qq && download; } || fail "the packages could not be downloaded: $packages"
for package in *.deb; do dpkg-deb -x "$package" "$root"; done
rm -rf "$root"/usr/share/{doc,lintian,man,locale} "$root"/usr/lib/*/gconv

# Programs search this bundle; the package makes it after its installation.
find "$root/usr/share/ca-certificates" -name '*.crt' | LC_ALL=C sort | xargs cat >"$root/etc/ssl/certs/ca-certificates.crt"
echo 'hookstream:x:65532:65532::/var/lib/hookstream:/sbin/nologin' >"$root/etc/passwd"
echo 'hookstream:x:65532:' >"$root/etc/group"
install -m 755 "$program" "$root/usr/bin/hookstream"
strip --strip-unneeded "$root/usr/bin/hookstream"
chmod 1777 "$root/tmp"
chmod 755 "$root"
[ "$(id -u)" = 0 ] && chown 65532:65532 "$root/var/lib/hookstream"
find "$root" -exec touch -h -d "@$epoch" {} +

image=$work/image
created=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)
umoci --log error init --layout "$image"
umoci --log error new --image "$image:latest"
rootless=; [ "$(id -u)" = 0 ] || rootless=--rootless
umoci --log error insert $rootless --history.created "$created" --image "$image:latest" "$root" /
umoci --log error config --image "$image:latest" --no-history --created "$created" \
  --config.user 65532:65532 --config.workingdir /var/lib/hookstream --config.entrypoint /usr/bin/hookstream \
  --config.exposedports 8080/tcp --config.exposedports 8081/tcp --config.exposedports 8082/tcp \
  --config.label org.opencontainers.image.title=hookstream \
  --config.label org.opencontainers.image.licenses=Apache-2.0
umoci --log error gc --layout "$image"
tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner -C "$image" -cf "$file" .
