package lab

import "testing"

// TestRestless: what waits in a socket's queue is no change of the machine; another socket is.
func TestRestless(t *testing.T) {
	t.Parallel()
	still := func(line string) string { return restless.ReplaceAllString(line, "$1 ") }
	const quiet, full, other = "udp UNCONN 0      0       10.1.0.1:7777 0.0.0.0:*", "udp UNCONN 3840   0       10.1.0.1:7777 0.0.0.0:*", "udp UNCONN 0      0       10.1.0.1:7778 0.0.0.0:*"
	if still(quiet) != still(full) {
		t.Errorf("%q and %q differ", still(quiet), still(full))
	}
	if still(quiet) == still(other) {
		t.Errorf("%q hides its address", still(other))
	}
}
