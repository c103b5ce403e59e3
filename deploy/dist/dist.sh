#!/usr/bin/env bash
# Builds what a release publishes into target/release-files (DIST_DIR): archives with the program, completions and manual
# pages, an image, an SBOM, checksums, and the manifests for krew and Homebrew. docs/release.md says how they are published.
#
# DIST_URL     where the archives will be published (default: the releases of the repository)
# DIST_BINARY  packs this program instead of building one
# DIST_PARTS   what to build: archives image sbom manifests (default: all)
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
out=${DIST_DIR:-target/release-files}
url=${DIST_URL:-https://github.com/hookstream/hookstream/releases/download/v$version}
parts=${DIST_PARTS:-archives image sbom manifests}
# Files get the time of the commit, so that two builds of one commit are equal.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
host=$(rustc -vV | sed -n 's/^host: //p')
cargo=${CARGO:-cargo}

say() { echo "dist: $*"; }
fail() { echo "dist: $*" >&2; exit 1; }
has() { case " $parts " in *" $1 "*) true ;; *) false ;; esac }

# Prints the targets to build: the host's, and the others that are installed with a linker.
targets() {
  echo "$host"
  [ -z "${DIST_BINARY:-}" ] && command -v rustup >/dev/null || return 0
  rustup target list --installed | while read -r target; do
    case $target in
      "$host") ;;
      x86_64-unknown-linux-musl) command -v musl-gcc >/dev/null && echo "$target" ;;
      aarch64-unknown-linux-gnu) command -v aarch64-linux-gnu-gcc >/dev/null && echo "$target" ;;
    esac
  done || true
}

# Builds the program for a target and prints its path.
build() {
  if [ -n "${DIST_BINARY:-}" ]; then echo "$DIST_BINARY"; return; fi
  if [ "$1" = "$host" ]; then
    "$cargo" build --locked --profile dist --bin hookstream >&2
    echo "${CARGO_TARGET_DIR:-target}/dist/hookstream"
  elif [ "$1" = x86_64-unknown-linux-musl ]; then
    # Rust's own linker and unwinder, because Debian's libgcc needs glibc's _dl_find_object. LuaJIT unwinds by itself: it
    # registers compiled code in a form that LLVM's libunwind does not read. `true` in place of linking the command luajit,
    # which nothing needs.
    CC_x86_64_unknown_linux_musl=musl-gcc CFLAGS_x86_64_unknown_linux_musl=-DLUAJIT_NO_UNWIND TARGET_LD=true TARGET_STRIP=true \
      CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld \
      CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS="-C link-self-contained=yes" \
      "$cargo" build --locked --profile dist --bin hookstream --target "$1" >&2
    echo "${CARGO_TARGET_DIR:-target}/$1/dist/hookstream"
  else
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
      "$cargo" build --locked --profile dist --bin hookstream --target "$1" >&2
    echo "${CARGO_TARGET_DIR:-target}/$1/dist/hookstream"
  fi
}

# Checks the program of a target as far as it can run here: for musl also on a glibc host with the same processor.
check() {
  case $1 in
    "${host%-*}-musl") deploy/dist/check.sh "$2" static && say "$1: static, starts and runs Lua functions" ;;
    *-linux-musl) deploy/dist/check.sh "$2" static no-run && say "$1: static, not run, because this machine cannot run it" ;;
    "$host") deploy/dist/check.sh "$2" && say "$1: starts and runs Lua functions" ;;
    *) say "$1: not checked, because this machine cannot run it" ;;
  esac
}

# Packs a folder so that equal content gives an equal archive.
pack() {
  tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$1" -cf - . | gzip -n9 >"$2"
}

# Packs the program of a target. The completions and manual pages come from the host's program, which can run here.
archive() {
  local target=$1 program=$2 own=$3 folder
  folder=$(mktemp -d)
  install -m 755 "$program" "$folder/hookstream"
  install -m 644 LICENSE README.md "$folder/"
  mkdir "$folder/completions"
  for shell in bash zsh fish powershell; do "$own" completion "$shell" >"$folder/completions/hookstream.$shell"; done
  "$own" man --output "$folder/man" >/dev/null
  pack "$folder" "$out/hookstream-$version-$target.tar.gz"
  rm -rf "$folder"
  say "hookstream-$version-$target.tar.gz"
}

sbom() {
  local tools=${XDG_CACHE_HOME:-$HOME/.cache}/hookstream/cyclonedx
  if ! command -v cargo-cyclonedx >/dev/null && [ ! -x "$tools/bin/cargo-cyclonedx" ]; then
    say "installing cargo-cyclonedx 0.5.9"
    "$cargo" install --quiet --locked --root "$tools" cargo-cyclonedx --version 0.5.9
  fi
  PATH=$PATH:$tools/bin "$cargo" cyclonedx --quiet --format json --spec-version 1.5 --override-filename "hookstream-$version.cdx"
  # Without the folder in which it was built, so that two builds of one commit are equal. Cargo leaves the name out if the
  # folder has it.
  local here
  here=$(printf %s "$PWD" | sed 's/[]\.*^$|[]/\\&/g')
  sed "s|path+file://$here#\(hookstream@\)\{0,1\}|hookstream@|g" "hookstream-$version.cdx.json" >"$out/hookstream-$version.cdx.json"
  rm "hookstream-$version.cdx.json"
  say "hookstream-$version.cdx.json"
}

# Prints the checksum of the archive of a target; empty if it was not built.
checksum() { sed -n "s/^\([0-9a-f]*\)  hookstream-$version-$1.tar.gz\$/\1/p" "$out/SHA256SUMS"; }

# Fills a template. Lines between `# if TARGET` and `# end` stay only if the target was built.
fill() {
  local target expression="s|@VERSION@|$version|g;s|@URL@|$url|g"
  for target in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu; do
    if [ -z "$(checksum "$target")" ]; then
      expression="$expression;/# if $target/,/# end/d"
    fi
    expression="$expression;s|@SHA256 $target@|$(checksum "$target")|g"
  done
  sed -e "$expression" -e '/^ *# if /d;/^ *# end$/d' "$1" >"$2"
  say "$(basename "$2")"
}

rm -rf "$out"
mkdir -p "$out"
own=
for target in $(targets); do
  has archives || has image || break
  program=$(build "$target")
  [ -x "$program" ] || fail "$program does not exist"
  check "$target" "$program"
  own=${own:-$program}
  has archives && archive "$target" "$program" "$own"
  if has image && [ "$target" = "$host" ]; then
    deploy/dist/image.sh "$program" "$out/hookstream-$version-${target%%-*}.oci.tar"
    say "hookstream-$version-${target%%-*}.oci.tar"
  fi
done
has sbom && sbom
(cd "$out" && sha256sum -- * >SHA256SUMS)
if has manifests; then
  fill deploy/dist/krew.yaml.in "$out/krew.yaml"
  fill deploy/dist/homebrew.rb.in "$out/hookstream.rb"
fi
say "all files are in $out"
