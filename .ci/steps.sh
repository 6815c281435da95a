# Shared by .ci/run and .ci/full: named steps with their durations, and what a machine must have.

# step NAME COMMAND...: runs it, says how long it took, ends the script when it fails.
step() {
  local name=$1 began=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  if "$@"; then
    printf '=== %s: ok, %d s\n' "$name" "$((SECONDS - began))"
  else
    local code=$?
    printf '=== %s: FAILED (exit code %d) after %d s\n' "$name" "$code" "$((SECONDS - began))" >&2
    exit 1
  fi
}

# need TOOL WHY: ends the script when the tool is not there.
need() {
  command -v "$1" >/dev/null 2>&1 || {
    printf 'missing: %s (%s)\n' "$1" "$2" >&2
    exit 1
  }
}

# The story's last line is one JSON object, which `payments` has judged already; a figure that went missing would not be
# noticed there.
verdict_is_ok() {
  local json=$1 figure
  for figure in '"verdict":"ok"' '"failed_by_mesh":0' '"failed_during_revert":0' '"plaintext_refused":true' \
    '"served_after_control_plane_stopped":1000' '"broken":[]'; do
    [[ $json == *"$figure"[,}]* ]] || {
      printf 'the verdict lacks %s: %s\n' "$figure" "$json" >&2
      return 1
    }
  done
  [[ $json =~ \"revert_ms\":([0-9]+) ]] && ((BASH_REMATCH[1] <= 500)) || {
    printf 'the revert took too long: %s\n' "$json" >&2
    return 1
  }
}
