package batch

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// No function leaves in a vector register what it worked with, and none has room on the stack to spill to, but for the 32 octets
// of vaes256's last block, which are cleared.
func TestFunctionsLeaveNothingBehind(t *testing.T) {
	source, err := os.ReadFile("kernels_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	var (
		header  = regexp.MustCompile(`^(\w+)\(SB\), NOSPLIT, \$(\d+)-`)
		vector  = regexp.MustCompile(`\b[XYZ](\d+)\b`)
		cleared = regexp.MustCompile(`^(?:VPXORQ|VPXOR|PXOR)\s+[XYZ](\d+), [XYZ](\d+)(?:, [XYZ](\d+))?$`)
		y       = regexp.MustCompile(`^gcm(Seal|Open)\d+Y$`)
	)
	functions := 0
	for _, f := range strings.Split(string(source), "\nTEXT ·")[1:] {
		h := header.FindStringSubmatch(f)
		if h == nil {
			t.Fatalf("a function without a frame size: %.80s", f)
		}
		functions++
		name := h[1]
		if h[2] != "0" && !(y.MatchString(name) && h[2] == "32") {
			t.Errorf("%s has a frame of %s octets", name, h[2])
		}
		dirty := map[int]bool{}
		ends := 0
		for _, line := range strings.Split(f, "\n")[1:] {
			line = strings.TrimSpace(line)
			switch c := cleared.FindStringSubmatch(line); {
			case strings.HasPrefix(line, "//"):
			case line == "VZEROALL":
				for r := range 16 {
					delete(dirty, r)
				}
			case c != nil && c[1] == c[2] && (c[3] == "" || c[3] == c[1]):
				n, _ := strconv.Atoi(c[1])
				delete(dirty, n)
			case line == "RET":
				ends++
				if len(dirty) > 0 {
					t.Errorf("%s returns with something in the registers %v", name, dirty)
				}
			default:
				for _, r := range vector.FindAllStringSubmatch(line, -1) {
					n, _ := strconv.Atoi(r[1])
					dirty[n] = true
				}
			}
		}
		if ends != 1 {
			t.Errorf("%s has %d ends: what is cleared before each must be looked at", name, ends)
		}
	}
	if functions < 20 {
		t.Errorf("only %d functions were found", functions)
	}
}
