# To be sourced: packages of a newer Debian for the cache, with package lists of their own. The host's lists and
# packages stay as they are, and no root is needed.

# newer_debian SUITE FOLDER: fills the array `apt_newer` with the options that make apt-get and apt-cache work
# on SUITE alone, with everything they keep in FOLDER (what is there is used again), and fetches the lists.
newer_debian() {
  local mirror folder=$2
  mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' 2>/dev/null | head -1)}
  mkdir -p "$folder/lists/partial" "$folder/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:-http://deb.debian.org/debian} $1 main" >"$folder/sources.list"
  # Nothing is installed there, so that whatever a package depends on is named.
  : >"$folder/status"
  # A mirror that stands still serves lists whose time has run out; they are signed all the same.
  apt_newer=(-o Acquire::Check-Valid-Until=false -o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o Dir::State="$folder" -o Dir::State::lists="$folder/lists" -o Dir::State::status="$folder/status" -o Dir::Cache="$folder"
    -o Acquire::Languages=none -o Acquire::Retries=5 -o Acquire::http::Timeout=60 -o APT::Sandbox::User=root
    -o APT::Install-Recommends=false -o pkgCacheGen::Essential=none -o Debug::NoLocking=true)
  apt-get -qq "${apt_newer[@]}" --error-on=any update
}
