package legacy

import (
	"io"
	"strings"
	"testing"
	"time"
)

// Whatever a file holds, reading it ends, and what was read can be performed and printed.
func FuzzSetkey(f *testing.F) {
	f.Add([]byte(glass))
	f.Add([]byte("add 10.0.0.1[4500] 10.0.0.2[4501] esp-udp 0x1000 -m any -E aes-gcm-16 \"0123456789abcdef0123\"; dump esp; exit;"))
	f.Add([]byte("spdadd -6 ::/0 fd00::1[any] icmp6,135,0 -P fwd priority def+5 ipsec esp/tunnel/::1[4500]-::2[1]/unique:32767;spddump;"))
	f.Add([]byte("deleteall 10.0.0.1 10.0.0.2 esp; get 10.0.0.1 10.0.0.2 esp 0x100; # end"))
	f.Add([]byte("spdupdate 10.0.0.1/0 10.0.0.2[1] udp -P in prio -2147483647 discard;spddelete 10.0.0.1/0 10.0.0.2[1] udp -P in;"))
	f.Add([]byte("add ;;;\"\n\"[/]\x00\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		LooksLikeSetkey(data)
		s, faults := ParseSetkey("fuzz", data)
		if (s == nil) == (len(faults) == 0) {
			t.Fatalf("a script and faults, or neither: %v", faults)
		}
		for _, x := range faults {
			if len(x.Message) > 600 || strings.ContainsAny(x.Message, "\n\x00") {
				t.Errorf("a fault people cannot read: %q", x.Message)
			}
		}
		if s == nil {
			return
		}
		db, faults := (*Database)(nil).Evaluate(s, World{})
		if (db == nil) == (len(faults) == 0) {
			t.Fatalf("a database and faults, or neither: %v", faults)
		}
		if db == nil {
			return
		}
		var sas []LiveAssociation
		for _, a := range db.SAs {
			if !a.Same(a) || a.check() != nil {
				t.Errorf("an impossible association %v", a)
			}
			sas = append(sas, LiveAssociation{Association: *a})
		}
		var entries []LiveEntry
		for _, e := range db.Policies {
			src, dst := e.Selectors()
			if !src.Start.IsValid() || src.Start.BitLen() != dst.Start.BitLen() || src.StartPort > src.EndPort || dst.StartPort > dst.EndPort {
				t.Errorf("an impossible selection %v %v", src, dst)
			}
			entries = append(entries, LiveEntry{Entry: *e})
		}
		if err := WriteAssociations(io.Discard, time.Unix(1e9, 0), sas, true); err != nil {
			t.Error(err)
		}
		if err := WritePolicies(io.Discard, entries, true); err != nil {
			t.Error(err)
		}
	})
}
