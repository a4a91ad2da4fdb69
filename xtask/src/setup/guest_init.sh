#!/bin/busybox sh
# The init of a guest: sets up the one network card from the kernel's command line, serves a page by
# HTTP, and runs the commands that the host sends over the second serial port.
#
#   vnet.name=NAME      host name
#   vnet.ip=ADDR/LEN    IPv4 address; `dhcp` asks for one
#   vnet.ip6=ADDR/LEN   IPv6 address
#   vnet.gw=ADDR        IPv4 default gateway
#   vnet.gw6=ADDR       IPv6 default gateway

/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root

# Quietly: some kernels have the one or the other built in.
modprobe -q virtio_pci
modprobe -q virtio_net

name=guest ip='' ip6='' gw='' gw6=''
for word in $(cat /proc/cmdline); do
    case $word in
        vnet.name=*) name=${word#*=} ;;
        vnet.ip=*) ip=${word#*=} ;;
        vnet.ip6=*) ip6=${word#*=} ;;
        vnet.gw=*) gw=${word#*=} ;;
        vnet.gw6=*) gw6=${word#*=} ;;
    esac
done
hostname "$name"
ip link set lo up

tries=0
while [ ! -e /sys/class/net/eth0 ] && [ $tries -lt 100 ]; do
    usleep 50000
    tries=$((tries + 1))
done
[ -n "$ip6" ] && ip -6 addr add "$ip6" dev eth0
ip link set eth0 up
case $ip in
    '') ;;
    dhcp) udhcpc -i eth0 -b -S -s /etc/udhcpc.script ;;
    *) ip addr add "$ip" dev eth0 ;;
esac
[ -n "$gw" ] && ip route add default via "$gw"
[ -n "$gw6" ] && ip -6 route add default via "$gw6" dev eth0

# An IPv6 address is of no use until duplicate address detection is through with it.
tries=0
while ip -6 addr show dev eth0 | grep -q tentative && [ $tries -lt 60 ]; do
    usleep 50000
    tries=$((tries + 1))
done

echo "This is $name." >/www/index.html
httpd -h /www

# Host to guest: `run ID SECONDS COMMAND .`, the command in base64. Guest to host: `ready` once
# after each boot, and for each command `begin ID`, its output in base64, `end ID STATUS`. A line
# that does not look like that (what was cut by a reboot) is passed over.
stty -F /dev/ttyS1 115200 raw -echo
exec 3<>/dev/ttyS1
echo ready >&3
while read -r verb id seconds command end <&3; do
    [ "$verb" = run ] && [ "$end" = . ] || continue
    echo "$command" | base64 -d >/run/command
    # A file of its own for each command: one left in the background may go on writing.
    timeout "$seconds" sh /run/command >"/run/output.$id" 2>&1 </dev/null 3>&-
    status=$?
    {
        echo "begin $id"
        base64 "/run/output.$id"
        echo "end $id $status"
    } >&3
    rm -f "/run/output.$id"
done
# The host's end of the port never closes it while the guest runs.
reboot -f
