package lab

import (
	"regexp"
	"strconv"
	"testing"
)

// IKEScan runs ike-scan's IKEv2 probe against an address and returns its output and how many
// handshakes it got.
func (h *Host) IKEScan(t testing.TB, target string) (string, int) {
	t.Helper()
	// Source port 0: any, so that a daemon on this host may have 500.
	output, err := h.Run("ike-scan", "--ikev2", "--dhgroup=14", "-M", "--sport=0", "--retry=2", "--timeout=1000", target)
	match := handshakes.FindStringSubmatch(output)
	if match == nil {
		t.Fatalf("ike-scan says nothing: %v\n%s", err, output)
	}
	n, _ := strconv.Atoi(match[1])
	return output, n
}

var handshakes = regexp.MustCompile(`(\d+) returned handshake`)
