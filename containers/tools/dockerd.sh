#!/usr/bin/env bash
# A Docker daemon of one's own, for machines that have the program but no daemon at work. Needs root, dockerd and runc.
#
#     dockerd.sh start DIR    prints the socket once it answers; everything the daemon keeps lies below DIR
#     dockerd.sh stop DIR
#     dockerd.sh probe        starts one, runs a container on it, stops it; fails and says why where this machine cannot
#
# It touches neither iptables nor a daemon that is there already, so containers reach the network only as the host
# (--network host), which is also how images are built on it.
set -euo pipefail
verb=$1

running() { [ -f "$folder/docker.pid" ] && kill -0 "$(cat "$folder/docker.pid")" 2>/dev/null; }

start() {
  mkdir -p "$folder"
  echo '{}' >"$folder/daemon.json"
  setsid dockerd --config-file "$folder/daemon.json" --data-root "$folder/data" --exec-root "$folder/exec" \
    --pidfile "$folder/docker.pid" --host "unix://$socket" --bridge none --iptables=false --ip6tables=false \
    >"$folder/log" 2>&1 </dev/null &
  local daemon=$!
  for _ in $(seq 300); do
    if docker --host "unix://$socket" info >/dev/null 2>&1; then echo "$socket"; return; fi
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
  done
  echo "error: dockerd does not answer: $(grep -v level=info "$folder/log" | tail -1)" >&2
  return 1
}

stop() {
  # The bridge of a network outlives its daemon.
  if running; then docker --host "unix://$socket" network prune --force >/dev/null || true; fi
  running && kill "$(cat "$folder/docker.pid")"
  for _ in $(seq 300); do running || break; sleep 0.1; done
  if running; then echo "error: dockerd did not stop within 30 s: see $folder/log" >&2; return 1; fi
  # The network namespace that host containers shared stays mounted, and the folder could not be removed.
  awk -v below="$folder/" 'index($2, below) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount
}

# Some kernels let a daemon start and refuse its first container.
probe() {
  for program in dockerd docker runc; do
    command -v "$program" >/dev/null || { echo "error: no $program on the PATH" >&2; return 1; }
  done
  [ "$(id -u)" = 0 ] || { echo "error: a daemon of one's own needs root" >&2; return 1; }
  folder=$(mktemp -d) socket=$folder/docker.sock
  trap 'stop && rm -rf "$folder"' EXIT
  export DOCKER_HOST="unix://$socket" DOCKER_CONFIG="$folder/config"
  start >/dev/null
  "${PYTHON:-python3}" "$(dirname "$0")/base_image.py" probe:1 >/dev/null
  docker run --rm --network none probe:1 python -c ''
}

case $verb in
  start | stop) folder=$(realpath -m "$2") socket=$folder/docker.sock ;;
esac
case $verb in
  start) running && echo "$socket" || start ;;
  stop) stop ;;
  probe) probe ;;
  *) echo "error: unknown command '$verb': write start, stop or probe" >&2; exit 2 ;;
esac
