package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tables of the contenders beside Uplane.
const (
	mirrorTable = 200
	scriptTable = 300
)

// mirrorProtocol is the protocol of the mirror's routes: nobody else's.
const mirrorProtocol = 99

// mirror is the floor: a program that does nothing but copy an interface's
// default from the main table into mirrorTable, by one request on a socket that
// is open already.
func mirror(args []string) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // the garbage of some hundred changes is nothing
	link, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	fd, err := listenRoutes([]int{unix.RTNLGRP_IPV4_ROUTE})
	if err != nil {
		return err
	}
	everything := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	fmt.Println("ready")
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			continue // nothing came for a second
		}
		for kind, body := range messages(buf[:n]) {
			if kind != unix.RTM_NEWROUTE {
				continue
			}
			r := parseRoute(body)
			if r.table != unix.RT_TABLE_MAIN || !r.isDef || r.link != link.Index {
				continue
			}
			err := handle.RouteReplace(&netlink.Route{
				Table: mirrorTable, Dst: everything, Gw: r.via.AsSlice(), LinkIndex: r.link, Protocol: mirrorProtocol,
			})
			if err != nil {
				fmt.Fprintln(os.Stderr, "mirror:", err)
			}
		}
	}
}
