package lab

import (
	"net/netip"
	"strings"
	"testing"
)

func FuzzParsePacket(f *testing.F) {
	f.Add(make([]byte, 14))
	f.Add(append([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x08, 0x00, 0x4f}, make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if p, ok := parsePacket(frame); ok && (!p.Src.IsValid() || p.String() == "") {
			t.Errorf("%x is taken for %+v", frame, p)
		}
	})
}

func FuzzAnswerDNS(f *testing.F) {
	f.Add([]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06whoami\x04test\x00\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, question []byte) {
		name, reply := answerDNS(question, WifiDNS, false)
		if reply == nil {
			return
		}
		if reply[0] != question[0] || reply[2]&0x80 == 0 {
			t.Errorf("%x for %s is no reply", reply, name)
		}
		if reply[7] == 1 && !strings.HasSuffix(name, "."+SplitDomain) {
			if addr, _ := netip.AddrFromSlice(reply[len(reply)-4:]); addr != WhoamiAddr {
				t.Errorf("%s is %s", name, addr)
			}
		}
	})
}
