#!/bin/sh
# Installs what the benchmark compares with and loads with, from Debian and as root; without root it is named.
# None of it is started as a service, now or at the next boot.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
policy=/usr/sbin/policy-rc.d

missing=
services=
for program in nginx haproxy stunnel4; do
  command -v "$program" >/dev/null || { missing="$missing $program"; services="$services $program"; }
done
for program in iperf3 wrk; do
  command -v "$program" >/dev/null || missing="$missing $program"
done
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing="$missing libnginx-mod-stream"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing, and not root to install them:$missing"
  exit 0
fi

restore() {
  rm -f "$policy"
  [ ! -e "$policy.kept" ] || mv "$policy.kept" "$policy"
}
trap restore EXIT
trap 'exit 130' INT TERM
[ ! -e "$policy" ] || mv "$policy" "$policy.kept"
# What Debian's packages ask before they start a service; 101 is "not allowed".
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "installing Debian packages:$missing"
apt-get -qq update
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
for service in $services; do
  update-rc.d "$service" disable 2>/dev/null
  [ "$service" != stunnel4 ] || ! command -v systemctl >/dev/null || systemctl --quiet disable stunnel.target
done
