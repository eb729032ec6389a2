package gateway

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

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
		reason string
	}{
		{choice: config.PlaneUser},
		{choice: config.PlaneAuto, kernel: unable == nil, reason: said(unable)},
		{choice: config.PlaneXFRM, kernel: unable == nil},
		{choice: config.PlaneAuto, manual: true, reason: `manual keys go to the kernel where plane = "xfrm" says so`},
	} {
		var log bytes.Buffer
		conf := manualConfig(t, t.TempDir(), "a", "flush;")
		if !c.manual {
			conf.Manual = nil
		}
		conf.Settings.Gateway.Plane, conf.Settings.Gateway.Guard = c.choice, false
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

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
