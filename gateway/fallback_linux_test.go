package gateway

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"testing"
)

// The link changes under a stream: one end loses its checksum offload, for which older kernels refuse runs of datagrams
// (EIO), then packets of the size so far don't fit any more (EINVAL, EMSGSIZE). Nobody behind the gateways notices.
func TestLinkChangesUnderAStream(t *testing.T) {
	if _, err := exec.LookPath("ethtool"); err != nil {
		t.Skip("needs ethtool to take offloads from a link")
	}
	a, b := twoHosts(t)
	if out, err := exec.Command("ip", "netns", "exec", b.name, "ethtool", "-K", "veth0", "tx", "off", "gso", "off").CombinedOutput(); err != nil {
		t.Fatalf("ethtool: %v: %s", err, out)
	}
	dir := t.TempDir()
	first, err := a.start(t, Config{Settings: configure(t, dir, a, b, "encap = \"udp\"\n"), StateDir: dir, Log: testLog(t, "a")})
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	second, err := b.start(t, Config{Settings: configure(t, dir, b, a, "encap = \"udp\"\n"), StateDir: dir, Log: testLog(t, "b")})
	if err != nil {
		t.Fatal(err)
	}
	defer second.stop()
	a.ping(t, b.inner)

	exchange := func(midway func()) {
		l := inside(t, b, func() (*net.TCPListener, error) {
			return net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(b.inner)})
		})
		defer l.Close()
		out := inside(t, a, func() (*net.TCPConn, error) {
			return net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(a.inner)}, l.Addr().(*net.TCPAddr))
		})
		defer out.Close()
		sent := make([]byte, 4<<20)
		rand.NewChaCha8([32]byte{1}).Read(sent)
		echo := make(chan error, 1)
		go func() {
			in, err := l.Accept()
			if err == nil {
				_, err = io.Copy(in, in)
				in.Close()
			}
			echo <- err
		}()
		go func() {
			_, _ = out.Write(sent[:len(sent)/2])
			if midway != nil {
				midway()
			}
			_, _ = out.Write(sent[len(sent)/2:])
			_ = out.CloseWrite()
		}()
		got, err := io.ReadAll(out)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d octets came back of %d, %v, or other ones", len(got), len(sent), err)
		}
		if err := <-echo; err != nil {
			t.Error(err)
		}
	}
	exchange(nil)
	exchange(func() {
		a.ip(t, "link", "set", "veth0", "mtu", "1300")
		b.ip(t, "link", "set", "veth0", "mtu", "1300")
	})
	exchange(nil)
	for _, g := range []*daemon{first, second} {
		s, err := g.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for reason, n := range s.Gateway.Drops {
			if reason != "dummy" && reason != "larger than the path mtu" {
				t.Errorf("drops: %d %s", n, reason)
			}
		}
		g.end(t)
	}
}
