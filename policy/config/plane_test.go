package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func parseIn(dir, text string) (*Config, []Fault) {
	return Parse(filepath.Join(dir, "coati.toml"), []byte(text))
}

// inKernel are the keys of a child that the kernel's ESP follows, each in what it says.
var inKernel = []string{
	"name", "mode", "local-ts", "remote-ts", "esp", "lifetime", "lifetime-packets", "lifetime-octets", "replay-window", "priority", "level", "sha256-96",
}

// onlyUserspace are settings that it has not.
var onlyUserspace = []struct{ table, key, value string }{
	{"child", "esp", `["aes128gcm16iiv"]`},
	{"child", "replay-window", "8192"},
	{"child", "df", `"copy"`},
	{"child", "dscp", "10"},
	{"child", "hop-limit", "3"},
	{"child", "flow-label", `"copy"`},
	{"child", "tfc", "600"},
	{"child", "tfc", `"mtu"`},
	{"child", "fragment", `"after"`},
	{"child", "mss", "1200"},
	{"child", "mss", `"off"`},
	{"child", "icmp-errors", `"none"`},
	{"child", "dummy-interval", `"2s"`},
	{"gateway", "mtu-floor", "1000"},
	{"gateway", "mtu-aging", `"1h"`},
	{"gateway", "icmp-accept", `"none"`},
}

func planeFile(plane, gateway, child string) string {
	return fmt.Sprintf("[gateway]\nplane = %q\n%s\n[tunnel.a]\nremote = \"203.0.113.7\"\npsk-file = \"psk\"\n[[tunnel.a.child]]\nname = \"lan\"\nremote-ts = [\"10.2.0.0/16\"]\n%s\n", plane, gateway, child)
}

// What the kernel's ESP has not is refused on the line that asks for it; for "auto" it is the reason to stay in userspace, which has
// it. Nothing is ignored.
func TestWhatTheKernelHasNotIsRefused(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for _, c := range onlyUserspace {
		gateway, child, line, where := "", "", 10, c.key+" of a/lan"
		setting := c.key + " = " + c.value
		if c.table == "gateway" {
			gateway, line, where = setting, 3, c.key+" in [gateway]"
		} else {
			child = setting
		}
		for _, plane := range planeChoices {
			config, faults := parseIn(dir, planeFile(plane, gateway, child))
			want := fmt.Sprintf("coati.toml:%d: %s: the kernel's esp has no such choice: leave the key out, or say plane = \"user\" in [gateway]", line, c.key)
			switch {
			case plane == "xfrm":
				if len(faults) != 1 || strings.TrimPrefix(faults[0].String(), dir+"/") != want {
					t.Errorf("%s, plane %s: %v\nwant %s", setting, plane, faults, want)
				}
			case config == nil || config.OnlyUserspace() != where:
				t.Errorf("%s, plane %s: faults %v", setting, plane, faults)
			}
		}
	}
	for _, plane := range planeChoices {
		config, faults := parseIn(dir, planeFile(plane, "", "df = \"set\"\ntfc = 0\nmss = \"auto\"\ndscp = \"copy\""))
		if len(faults) > 0 || config.OnlyUserspace() != "" {
			t.Errorf("plane %s: %v", plane, faults)
		}
	}
}

// A new key must be in one of the two lists.
func TestEveryKeyOfAChildIsTheKernelsOrRefused(t *testing.T) {
	t.Parallel()
	refused := map[string]bool{}
	for _, k := range userspaceChildren {
		refused[k.key] = true
		if !slices.ContainsFunc(onlyUserspace, func(c struct{ table, key, value string }) bool { return c.key == k.key }) {
			t.Errorf("%s is not tried", k.key)
		}
	}
	for _, k := range childKeys {
		if slices.Contains(inKernel, k.name) == refused[k.name] && k.name != "esp" && k.name != "replay-window" {
			t.Errorf("%s: does the kernel follow it", k.name)
		}
	}
}

// Fragments after the first have no ports, and the kernel remembers no first one (RFC 4301, section 7.3).
func TestPortsInTheKernelAreWarnedOf(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for _, plane := range planeChoices {
		_, faults := parseIn(dir, strings.Replace(planeFile(plane, "", ""), "10.2.0.0/16", "10.2.0.0/16[udp/53]", 1))
		if (plane == "xfrm") != (len(faults) == 1) || Failed(faults) || len(faults) == 1 && !strings.Contains(faults[0].String(), "later fragments of what a/lan selects by port are dropped (RFC 4301, section 7.3)") {
			t.Errorf("plane %s: %v", plane, faults)
		}
	}
}
