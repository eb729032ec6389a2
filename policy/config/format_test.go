package config

import (
	"strings"
	"testing"
	"time"

	"coati/policy"
)

// What the file has no words for is refused rather than left out.
func TestFormatRefusesWhatTheFileCannotSay(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for name, change := range map[string]func(*Config, *policy.PeerTunnel, *policy.Child){
		"ike version 3":   func(_ *Config, p *policy.PeerTunnel, _ *policy.Child) { p.Version = 3 },
		"no psk-file":     func(c *Config, _ *policy.PeerTunnel, _ *policy.Child) { c.PSKFiles = nil },
		"no child":        func(_ *Config, p *policy.PeerTunnel, _ *policy.Child) { p.Children = nil },
		"lifetimes other": func(_ *Config, _ *policy.PeerTunnel, c *policy.Child) { c.Lifetime.HardOctets = 1 << 30 },
		"remote-id": func(_ *Config, p *policy.PeerTunnel, _ *policy.Child) {
			p.RemoteID = policy.Identity{Type: policy.IDDN, Data: []byte{0x30, 0}}
		},
		"selector": func(_ *Config, _ *policy.PeerTunnel, c *policy.Child) { c.Remote = []policy.Selector{types(t)} },
	} {
		c := mustParse(t, dir, "[tunnel.a]\nremote = \"203.0.113.7\"\npsk-file = \"psk\"\nremote-ts = [\"10.2.0.0/16\"]\n")
		if len(c.Tunnels[0].Children) != 1 {
			t.Fatal("no child to change")
		}
		change(c, &c.Tunnels[0], &c.Tunnels[0].Children[0])
		if b, err := Format(c); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v\n%s", name, err, b)
		}
	}
}

// types goes from the middle of one type's codes to the middle of another's.
func types(t *testing.T) policy.Selector {
	s := selectorsOf(t, "10.2.0.0/16[icmp]")[0]
	s.StartPort, s.EndPort = 0x0305, 0x0408
	return s
}

func TestFormatNeverWritesTheKey(t *testing.T) {
	t.Parallel()
	c := mustParse(t, folder(t), "[tunnel.a]\nremote = \"203.0.113.7\"\npsk-file = \"psk\"\nremote-ts = [\"10.2.0.0/16\"]\n")
	if b, err := Format(c); err != nil || strings.Contains(string(b), "sesame") {
		t.Errorf("%v\n%s", err, b)
	}
}

func TestDurationsAreWrittenAsShortAsTheyAreRead(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]time.Duration{
		"0s": 0, "1s": time.Second, "10m": 10 * time.Minute, "1h": time.Hour, "20h": 20 * time.Hour, "1h30m": 90 * time.Minute,
		"1h0m1s": time.Hour + time.Second, "1.5s": 1500 * time.Millisecond, "24h": 24 * time.Hour,
	} {
		got := sayDuration(d)
		if again, err := parseDuration(got); got != want || err != nil || again != d {
			t.Errorf("%s: %q, read again as %s, %v", d, got, again, err)
		}
	}
}
