package bench

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"coati/policy/config"
)

func TestNth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n    int
		want string
	}{{0, "10.64.0.0"}, {1, "10.64.0.1"}, {256, "10.64.1.0"}, {70_000, "10.65.17.112"}} {
		if got := nth(callerNet, c.n); got.String() != c.want {
			t.Errorf("address %d is %v, want %s", c.n, got, c.want)
		}
	}
}

func TestDestination(t *testing.T) {
	t.Parallel()
	info := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: 3, Spec_dst: [4]byte{10, 64, 0, 9}, Addr: [4]byte{10, 64, 0, 9}})
	if got := destination(info); got != netip.MustParseAddr("10.64.0.9") {
		t.Errorf("%v", got)
	}
	for _, bad := range [][]byte{nil, info[:10], make([]byte, 32)} {
		if got := destination(bad); got.IsValid() {
			t.Errorf("%v from %x", got, bad)
		}
	}
}

func TestACallIsDone(t *testing.T) {
	t.Parallel()
	refusal := errors.New("the child was refused")
	for _, c := range []struct {
		what    call
		p       party
		done    bool
		failure bool
	}{
		{call{}, party{}, false, false},
		{call{}, party{replied: true}, true, false},
		{call{}, party{replied: true, failure: refusal}, true, true},
		{call{refused: true}, party{replied: true, failure: refusal}, true, false},
		{call{refused: true}, party{}, false, false},
	} {
		if done, err := c.what.done(&c.p); done != c.done || (err != nil) != c.failure {
			t.Errorf("%+v, %v: %t, %v", c.what.refused, c.p.failure, done, err)
		}
	}
}

func TestProcessTime(t *testing.T) {
	t.Parallel()
	first, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 5*time.Second; {
		if now, err := processTime(os.Getpid()); err != nil || now < first {
			t.Fatalf("%v after %v, %v", now, first, err)
		} else if now > first+time.Millisecond {
			break
		}
	}
	if _, err := processTime(1 << 22); err == nil {
		t.Error("a process that cannot be has processor time")
	}
}

// testHost has a folder with the secrets that a responder's configuration names.
func testHost(t *testing.T, tunnels ...string) *host {
	t.Helper()
	h := &host{outer: netip.MustParseAddr("10.9.0.2"), lanNet: netip.MustParsePrefix("10.2.0.0/24"), dir: t.TempDir()}
	for _, name := range append(tunnels, "bench") {
		if err := h.write(name+".psk", "x\n"); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func TestRespondersConfigurations(t *testing.T) {
	t.Parallel()
	h := testHost(t, "t1", "t2", "t3")
	for _, c := range []struct {
		text    string
		tunnels int
	}{{coatiAny(h, false), 1}, {coatiMany(h, 3), 3}} {
		got, faults := config.Parse(h.dir+"/coati.toml", []byte(c.text))
		if config.Failed(faults) || got == nil || len(got.Tunnels) != c.tunnels {
			t.Errorf("%v in\n%s", faults, c.text)
		}
	}
	// strongSwan's own parser sees them in a run; here, that every tunnel has its connection and its secret.
	many := swanMany(h, 3)
	for _, want := range []string{"t1 {", "t3 {", "ike-t3 { id = 10.64.0.3", "remote_ts = 172.16.0.2/32", `secret = "secret 2 of the bench"`} {
		if !strings.Contains(many, want) {
			t.Errorf("%q is not in\n%s", want, many)
		}
	}
	if open, shut := strings.Count(many, "{"), strings.Count(many, "}"); open != shut {
		t.Errorf("%d braces open, %d shut", open, shut)
	}
}

func TestIKECostNeedsRounds(t *testing.T) {
	t.Parallel()
	o := IKECostOptions{Handshakes: 7}
	o.fill()
	quick := IKECostOptions{Quick: true}
	quick.fill()
	if o.Handshakes != 7 || o.Rounds != usualRounds || o.SAs != 10_000 || quick.SAs >= o.SAs || quick.Rounds < fewRounds {
		t.Errorf("%+v, quick %+v", o, quick)
	}
}
