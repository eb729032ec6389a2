package gateway

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"coati/ike"
	"coati/policy"
)

// The addresses that peers were given outlive a restart in a file: a line for each new owner of an address, the latest counts. It is
// written before the peer hears of its address, rewritten without what is outdated when it is opened, and locked while it is in use.

// maxLeaseLine is the longest line that is read, octets: an identity is at most what a payload carries.
const maxLeaseLine = 256 << 10

type leaseFile struct {
	f      *os.File
	lock   *os.File
	failed bool
}

// leaseLine is a line of the file.
type leaseLine struct {
	Tunnel  string     `json:"tunnel"`
	Type    uint8      `json:"id_type"`
	ID      string     `json:"id"` // its octets
	Address netip.Addr `json:"address"`
	Says    string     `json:"says"` // the identity for people; not read
}

// openLeases reads what is there. Lines that make no sense are counted and left out.
func openLeases(path string) (lf *leaseFile, known []ike.Lease, bad int, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("the file of leases: %w", err), lf.close())
			lf = nil
		}
	}()
	lf = &leaseFile{}
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return
	}
	if lf.lock, err = os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600); err != nil {
		return
	}
	if err = syscall.Flock(int(lf.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = fmt.Errorf("%s is in use by another gateway: name another one with leases", path)
		return
	}
	old, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	switch {
	case err == nil:
		known, bad, err = readLeases(old)
		err = errors.Join(err, old.Close())
	case errors.Is(err, os.ErrNotExist):
		err = nil
	}
	if err != nil {
		return
	}
	if lf.f, err = os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0o600); err != nil {
		return
	}
	if err = lf.write(known); err == nil {
		err = os.Rename(path+".new", path)
	}
	return
}

// readLeases keeps the latest owner of each address, in the order they came.
func readLeases(r io.Reader) (known []ike.Lease, bad int, err error) {
	type at struct {
		tunnel string
		addr   netip.Addr
	}
	latest := map[at]int{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLeaseLine)
	for sc.Scan() {
		var l leaseLine
		id, herr := []byte(nil), error(nil)
		if err := json.Unmarshal(sc.Bytes(), &l); err == nil {
			id, herr = hex.DecodeString(l.ID)
		} else {
			herr = err
		}
		if herr != nil || !l.Address.IsValid() || l.Tunnel == "" {
			bad++
			continue
		}
		k := at{l.Tunnel, l.Address}
		if i, ok := latest[k]; ok {
			known[i] = ike.Lease{}
		}
		latest[k] = len(known)
		known = append(known, ike.Lease{Tunnel: l.Tunnel, ID: policy.Identity{Type: policy.IDType(l.Type), Data: id}, Address: l.Address})
	}
	out := known[:0]
	for _, k := range known {
		if k.Address.IsValid() {
			out = append(out, k)
		}
	}
	return out, bad, sc.Err()
}

// write adds leases, and writes them through to the disk.
func (lf *leaseFile) write(ls []ike.Lease) error {
	var b strings.Builder
	for _, l := range ls {
		line, err := json.Marshal(leaseLine{l.Tunnel, uint8(l.ID.Type), hex.EncodeToString(l.ID.Data), l.Address, l.ID.String()})
		if err != nil {
			return err
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	if b.Len() == 0 {
		return nil
	}
	if _, err := lf.f.WriteString(b.String()); err != nil {
		return err
	}
	return lf.f.Sync()
}

func (lf *leaseFile) close() error {
	if lf == nil {
		return nil
	}
	var errs []error
	for _, f := range []*os.File{lf.f, lf.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// hasPool says whether one of the tunnels gives addresses to its peers.
func hasPool(tunnels []policy.PeerTunnel) bool {
	for i := range tunnels {
		if len(tunnels[i].Pool) > 0 {
			return true
		}
	}
	return false
}

// openLeases opens the file if it is needed and not open.
func (g *Gateway) openLeases(tunnels []policy.PeerTunnel) ([]ike.Lease, error) {
	if g.leases != nil || !hasPool(tunnels) {
		return nil, nil
	}
	lf, known, bad, err := openLeases(g.settings.Gateway.Leases)
	if err != nil {
		return nil, err
	}
	g.leases = lf
	if bad > 0 {
		g.log.Warn("lines of the file of leases make no sense and are left out", slog.Int(keyCount, bad))
	}
	return known, nil
}

// leased writes new owners of addresses down. A disk that fails is said once: peers matter more than their next address.
func (g *Gateway) leased(ls []ike.Lease) {
	if g.leases == nil {
		return
	}
	if err := g.leases.write(ls); err != nil && !g.leases.failed {
		g.leases.failed = true
		g.log.Error("leases cannot be written: after a restart peers get other addresses", slog.String(keyReason, err.Error()))
	}
}

func (g *Gateway) given(to ike.Given) {
	if err := g.machine.give(to); err != nil {
		g.log.Error("the address that the peer gives us cannot be used", slog.String(keyReason, err.Error()))
	}
}
