package bench

import (
	"bytes"
	"compress/gzip"
	"errors"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"
)

//go:noinline
func burn(until time.Time) (n int) {
	for time.Now().Before(until) {
		for range 1000 {
			n += n ^ 7
		}
	}
	return n
}

// A profile of this very process names the function that was busy.
func TestParseProfile(t *testing.T) {
	var b bytes.Buffer
	found := false
	for limit := time.Now().Add(10 * time.Second); !found && time.Now().Before(limit); {
		b.Reset()
		if err := pprof.StartCPUProfile(&b); err != nil {
			t.Fatal(err)
		}
		burn(time.Now().Add(200 * time.Millisecond))
		pprof.StopCPUProfile()
		samples, err := parseProfile(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range samples {
			inner := slices.IndexFunc(s.stack, func(f string) bool { return strings.HasSuffix(f, "bench.burn") })
			outer := slices.IndexFunc(s.stack, func(f string) bool { return strings.HasSuffix(f, "TestParseProfile") })
			found = found || s.count > 0 && inner >= 0 && outer > inner
		}
	}
	if !found {
		t.Fatal("no sample has the busy function in the one that called it")
	}

	t.Log("what is cut off is an error, and no more")
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for n := range min(plain.Len(), 2000) {
		var cut bytes.Buffer
		w := gzip.NewWriter(&cut)
		w.Write(plain.Bytes()[:n])
		w.Close()
		if _, err := parseProfile(cut.Bytes()); errors.Is(err, errProfile) {
			failed++
		} else if err != nil {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if failed == 0 {
		t.Error("no cut was noticed")
	}
	if _, err := parseProfile([]byte("no gzip")); !errors.Is(err, errProfile) {
		t.Errorf("got %v", err)
	}
}

func TestStageOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ stack, want string }{
		{"internal/runtime/syscall/linux.Syscall6 coati/tun.(*Queue).ReadFrame coati/gateway.(*queue).ReadFrame coati/esp.(*Outbound).Run", "tun read"},
		{"coati/packet.CopySum coati/esp.(*plan).build coati/esp.(*Outbound).gather", "segment, checksum"},
		{"coati/esp/batch.gcmSeal128.abi0 coati/esp/batch.(*gcm512).Seal coati/esp.(*Outbound).sealSome coati/esp.(*Outbound).Flush", "seal"},
		{"coati/esp/batch.gcmOpen128.abi0 coati/esp/batch.(*gcm512).Open coati/esp.(*Inbound).decrypt", "open"},
		{"coati/tun.(*sender).one coati/tun.(*UDPSocket).Send coati/gateway.(*egress).SendESP coati/esp.(*Outbound).Flush", "socket send"},
		{"coati/packet.Sum coati/esp.(*joiner).joinable coati/esp.(*joiner).add coati/esp.(*Inbound).unwrap", "join, checksum"},
		{"coati/tun.(*Queue).WriteFrame coati/gateway.(*queue).WriteFrame coati/esp.(*joiner).send", "tun write"},
		{"coati/packet.Parse coati/esp.(*Inbound).unwrap coati/esp.(*Inbound).deliver", "policy, headers, windows"},
		{"runtime.futex runtime.schedule", otherStage},
	} {
		if got := stageOf(strings.Fields(c.stack)); got != c.want {
			t.Errorf("%s: %s", c.stack, got)
		}
	}
}
