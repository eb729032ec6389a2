package gateway

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"coati/ike"
	"coati/policy"
)

func leaseOf(tunnel, name, addr string) ike.Lease {
	return ike.Lease{Tunnel: tunnel, ID: policy.Identity{Type: policy.IDFQDN, Data: []byte(name)}, Address: netip.MustParseAddr(addr)}
}

var sameLease = cmp.Comparer(func(a, b ike.Lease) bool {
	return a.Tunnel == b.Tunnel && a.ID.Equal(b.ID) && a.Address == b.Address
})

// What was written is there again, the latest owner of each address alone, also after a crash in the middle of a line.
func TestLeasesAreThereAfterARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lib", "leases")
	f, known, bad, err := openLeases(path)
	if err != nil || len(known) != 0 || bad != 0 {
		t.Fatal(known, bad, err)
	}
	one, two, three := leaseOf("t", "a.example", "10.9.0.1"), leaseOf("t", "b.example", "10.9.0.2"), leaseOf("t", "\n{\"", "2001:db8::1")
	for _, l := range []ike.Lease{one, leaseOf("t", "old.example", "10.9.0.2"), three, two, leaseOf("other", "a.example", "10.9.0.1")} {
		if err := f.write([]ike.Lease{l}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, _, err := openLeases(path); err == nil || !strings.Contains(err.Error(), "in use by another gateway") {
		t.Errorf("a second gateway opens the same file: %v", err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, `{"tunnel":"t","id_ty`...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, wantBad := range []int{1, 0} { // opening it leaves out what makes no sense
		f, known, bad, err = openLeases(path)
		if err != nil || bad != wantBad {
			t.Fatalf("%d bad lines, want %d: %v", bad, wantBad, err)
		}
		if d := cmp.Diff([]ike.Lease{one, three, two, leaseOf("other", "a.example", "10.9.0.1")}, known, sameLease); d != "" {
			t.Error(d)
		}
		if err := f.close(); err != nil {
			t.Fatal(err)
		}
	}
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v", i.Mode(), err)
	}
}

// A file of anything is read, or refused, and what was read is read again when it is written.
func FuzzLeases(f *testing.F) {
	f.Add([]byte(`{"tunnel":"t","id_type":2,"id":"61","address":"10.9.0.1"}`))
	f.Add([]byte("{}\n\n{\"tunnel\":\"t\",\"id\":\"6\",\"address\":\"::1\"}\nnull\n[]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		known, _, err := readLeases(bytes.NewReader(text))
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "leases")
		lf, _, _, err := openLeases(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := lf.write(known); err != nil {
			t.Fatal(err)
		}
		if err := lf.close(); err != nil {
			t.Fatal(err)
		}
		lf, again, bad, err := openLeases(path)
		if err != nil {
			t.Fatal(err)
		}
		defer lf.close()
		if d := cmp.Diff(known, again, sameLease); d != "" || bad != 0 {
			t.Errorf("%d bad lines: %s", bad, d)
		}
	})
}
