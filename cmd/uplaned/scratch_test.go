package main
import ("testing";"time";"uplane/internal/lab")
func TestScratch(t *testing.T) {
	s := newSite(t, lab.Plain, lab.Options{})
	s.run("up", "steam", "--uplink", lab.WiFi)
	s.writeLane("steam", "uplink = \""+lab.WiFi+"\"\ndns = [\"198.51.100.53\"]\n")
	a:=time.Now()
	s.run("reload")
	t.Log(time.Since(a))
	t.Log(s.sh("cat /etc/netns/steam/resolv.conf; date"))
	time.Sleep(3*time.Second)
	t.Log(s.sh("cat /etc/netns/steam/resolv.conf"))
	t.Log(s.uplane.Log())
}
