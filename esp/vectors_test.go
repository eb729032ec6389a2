package esp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"coati/esp/batch"
	"coati/packet"
	"coati/policy"
)

// keyed is a whole packet of somebody else's with its keys.
type keyed struct {
	name   string
	sa     policy.SA
	packet []byte
}

func keyedPackets(t *testing.T) (out []keyed) {
	t.Helper()
	b, err := os.ReadFile("testdata/packets.txt")
	if err != nil {
		t.Fatal(err)
	}
	octets := func(s string) []byte { return must(hex.DecodeString(strings.TrimPrefix(s, "-"))) }
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		k := keyed{name: f[0] + " " + f[1], packet: octets(f[6])}
		k.sa = policy.SA{Encryption: policy.LookupKeyword(f[2]).Transform(), EncryptionKey: policy.NewSecret(octets(f[4])), IntegrityKey: policy.NewSecret(octets(f[5]))}
		if f[3] != "-" {
			k.sa.Integrity = policy.LookupKeyword(f[3]).Transform()
		}
		out = append(out, k)
	}
	return out
}

// Whole packets with their keys from OpenDataPlane and DPDK: they open, and their plaintext sealed again with their IV is the
// same packet, octet for octet.
func TestKeyedPacketsOpenAndSealTheSame(t *testing.T) {
	ciphers := map[string]bool{}
	for _, k := range keyedPackets(t) {
		tr, err := newTransform(&k.sa)
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
			continue
		}
		ciphers[k.sa.Encryption.String()] = true
		seq := uint64(binary.BigEndian.Uint32(k.packet[4:]))
		n := len(k.packet) - packet.ESPLen - tr.ivLen - tr.icvLen
		p := bytes.Clone(k.packet)
		var jobs [1]batch.Job
		tr.job(&jobs[0], p, n, false, seq)
		if tr.key.Open(jobs[:]); !jobs[0].OK {
			t.Errorf("%s (%s %s) does not open", k.name, k.sa.Encryption, k.sa.Integrity)
			continue
		}
		if _, ok := stripPadding(tr.text(&jobs[0])); !ok {
			t.Errorf("%s: padding", k.name)
		}
		clear(p[len(p)-tr.icvLen:])
		tr.job(&jobs[0], p, n, false, seq)
		if tr.key.Seal(jobs[:]); !bytes.Equal(p, k.packet) {
			t.Errorf("%s sealed again\n%x, it was\n%x", k.name, p, k.packet)
		}
		p[len(p)-1] ^= 1
		tr.job(&jobs[0], p, n, false, seq)
		if tr.key.Open(jobs[:]); jobs[0].OK {
			t.Errorf("%s with another icv opens", k.name)
		}
	}
	if len(ciphers) < 10 {
		t.Errorf("only %v were tried", ciphers)
	}
}
