package lab

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RefuseNetlink has sockets of a netlink family, one of the NETLINK_* constants, fail with an error on the calling thread
// and in all that it starts: unix.EPROTONOSUPPORT is what a kernel says that was built without it. There is no way back, so
// the caller has locked its goroutine to the thread for good.
func RefuseNetlink(family int, with unix.Errno) error {
	const number, domain, protocol = 0, 16, 32 // where a filter finds a call's number, and its first and third argument
	unless := func(at, value, skip uint32) []unix.SockFilter {
		return []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(skip), K: value},
		}
	}
	filter := unless(number, unix.SYS_SOCKET, 5)
	filter = append(filter, unless(domain, unix.AF_NETLINK, 3)...)
	filter = append(filter, unless(protocol, uint32(family), 1)...)
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(with)},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
