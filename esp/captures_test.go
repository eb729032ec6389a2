package esp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"os"
	"testing"

	"coati/esp/batch"
	"coati/packet"
	"coati/policy"
)

// captured are the ESP packets of a capture on Ethernet, little-endian, from the SPI on.
func captured(t *testing.T, name string) (out [][]byte) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	const fileHeader, packetHeader, ethernet = 24, 16, 14
	for b = b[fileHeader:]; len(b) > packetHeader; {
		n := int(binary.LittleEndian.Uint32(b[8:]))
		p := b[packetHeader+ethernet : packetHeader+n]
		b = b[packetHeader+n:]
		var i packet.Info
		if packet.Parse(p, &i) == nil && i.Protocol == packet.ProtoESP {
			out = append(out, p[i.Transport:i.Length])
		}
	}
	return out
}

// The keyed captures of tcpdump's tests, of FreeS/WAN in 2003: the keys of their ciphers are known, those of their HMACs are
// not, so they get another tag. They open, each holds a ping, and sealed with the same IV they are the same octets.
func TestCapturesOpenAndSealTheSame(t *testing.T) {
	for _, c := range []struct {
		file, enc, key string
		spi            uint32
		count          int
	}{
		{"02-sunrise-sunset-esp.pcap", "3des", "4043434545464649494a4a4c4c4f4f515152525454575758", 0x12345678, 8},
		{"08-sunrise-sunset-esp2.pcap", "3des", "43434545464649494a4a4c4c4f4f51515252545457575840", 0x12345678, 8},
		{"08-sunrise-sunset-aes.pcap", "aes256", "aaaabbbbccccdddd4043434545464649494a4a4c4c4f4f515152525454575758", 0xd1234567, 8},
	} {
		sa := policy.SA{
			Encryption: policy.LookupKeyword(c.enc).Transform(), EncryptionKey: policy.NewSecret(must(hex.DecodeString(c.key))),
			Integrity: policy.LookupKeyword("sha1").Transform(), IntegrityKey: key(20, 5),
		}
		tr, err := newTransform(&sa)
		if err != nil {
			t.Fatal(err)
		}
		done := 0
		for _, p := range captured(t, c.file) {
			if packet.ESP(p).SPI() != c.spi {
				continue
			}
			done++
			mac := hmac.New(sha1.New, sa.IntegrityKey.Reveal())
			mac.Write(p[:len(p)-tr.icvLen])
			copy(p[len(p)-tr.icvLen:], mac.Sum(nil))
			want := bytes.Clone(p)
			n := len(p) - packet.ESPLen - tr.ivLen - tr.icvLen
			var jobs [1]batch.Job
			tr.job(&jobs[0], p, n, false, 0)
			if tr.key.Open(jobs[:]); !jobs[0].OK {
				t.Fatalf("%s: does not open", c.file)
			}
			inner, ok := stripPadding(jobs[0].Text)
			for ok && inner[0]>>4 == 4 && inner[9] == packet.ProtoIPv4 {
				inner = inner[packet.IPv4Len:]
			}
			var i packet.Info
			if !ok || packet.Parse(inner, &i) != nil && packet.ESP(inner).SPI() != 0xabcdabcd {
				t.Errorf("%s: holds %x", c.file, jobs[0].Text)
			} else if i.Version == 4 && i.Protocol != packet.ProtoESP && (i.Protocol != packet.ProtoICMP || !packet.IPv4(inner).ChecksumOK()) {
				t.Errorf("%s: holds protocol %d", c.file, i.Protocol)
			}
			clear(p[len(p)-tr.icvLen:])
			tr.job(&jobs[0], p, n, false, 0)
			if tr.key.Seal(jobs[:]); !bytes.Equal(p, want) {
				t.Errorf("%s: sealed again it differs", c.file)
			}
		}
		if done != c.count {
			t.Errorf("%s: %d packets, want %d", c.file, done, c.count)
		}
	}
}
