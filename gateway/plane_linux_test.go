package gateway

import (
	"bytes"
	"cmp"
	"log/slog"
	"strings"
	"testing"

	"coati/policy"
	"coati/policy/config"
	"coati/tun/xfrm"
)

// plane = "auto" goes on in userspace where the kernel cannot carry ESP, and says in one line why; "xfrm" does not start
// there, for the same reason; "user" asks nobody. Manual keys stay in userspace with "auto", in any kernel.
func TestAutoSaysInOneLineWhyTheKernelIsPassedOver(t *testing.T) {
	a, _ := twoHosts(t)
	unable := xfrm.Probe()
	t.Logf("this kernel: %v", unable)
	for _, c := range []struct {
		choice config.PlaneChoice
		manual bool
		kernel bool
		floor  int
		reason string
	}{
		{choice: config.PlaneUser},
		{choice: config.PlaneAuto, kernel: unable == nil, reason: said(unable)},
		{choice: config.PlaneXFRM, kernel: unable == nil},
		{choice: config.PlaneAuto, manual: true, reason: `manual keys go to the kernel where plane = "xfrm" says so`},
		{choice: config.PlaneAuto, floor: 1000, reason: "mtu-floor in [gateway]: the kernel's esp has no such choice"},
	} {
		var log bytes.Buffer
		conf := manualConfig(t, t.TempDir(), "a", "flush;")
		if !c.manual {
			conf.Manual = nil
		}
		conf.Settings.Gateway.Plane, conf.Settings.Gateway.Guard = c.choice, false
		conf.Settings.Gateway.MTUFloor = cmp.Or(c.floor, conf.Settings.Gateway.MTUFloor)
		conf.Log = slog.New(slog.NewTextHandler(&log, nil))
		d, err := a.start(t, conf)
		if c.choice == config.PlaneXFRM && unable != nil {
			if err == nil || err.Error() != unable.Error() {
				t.Errorf("%v: %v, want %v", c.choice, err, unable)
			}
			if err == nil {
				d.end(t)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := d.kernel != nil; got != c.kernel {
			t.Errorf("%v, manual keys %t: in the kernel %t, want %t", c.choice, c.manual, got, c.kernel)
		}
		d.end(t)
		var lines []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "esp stays in userspace") {
				lines = append(lines, line)
			}
		}
		if c.reason == "" && len(lines) > 0 || c.reason != "" && (len(lines) != 1 || !strings.Contains(strings.ReplaceAll(lines[0], `\"`, `"`), c.reason)) {
			t.Errorf("%v, manual keys %t: %q, want %q", c.choice, c.manual, lines, c.reason)
		}
	}
}

// A reload that asks for what the kernel, which carries ESP already, has not is refused; in userspace nothing of it is.
func TestAReloadMayNotAskTheKernelForWhatItHasNot(t *testing.T) {
	next := &config.Config{Gateway: config.DefaultGateway(), Tunnels: []policy.PeerTunnel{{Name: "a", Children: []policy.Child{{Name: "lan"}}}}}
	inKernel, inUserspace := &Gateway{kernel: &xfrm.Plane{}}, &Gateway{}
	if f := inKernel.kernelMisses(next); len(f) > 0 {
		t.Errorf("refused: %v", f)
	}
	next.Tunnels[0].Children[0].ICMPErrors = policy.ICMPNone
	if f := inUserspace.kernelMisses(next); len(f) > 0 {
		t.Errorf("refused in userspace: %v", f)
	}
	if f := inKernel.kernelMisses(next); !config.Failed(f) || !strings.HasPrefix(f[0].Message, "icmp-errors of a/lan: ") {
		t.Errorf("not refused: %v", f)
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
