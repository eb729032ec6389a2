package tun

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Reverse-path filter (RFC 3704, Linux ip-sysctl). When a policy covers the peer's own address, the
// route back to it, asked without a mark, leads into the TUN: a strict uplink then drops what the
// peer sends, and its ARP requests. src_valid_mark does not help, as it compares with the mark of the
// received packet, which only netfilter could have set. So a strict uplink is loose for the run.
//
// What is in force is the greater of conf/all and conf/IFACE (0 off, 1 strict, 2 loose): writing
// 2 to the interface makes it loose whatever all says. Where it is off or loose nothing is touched.
//
// The former value and the daemons that need it loose stand in a file per namespace and interface.
// It is written before the sysctl: after a crash the next start of any daemon of this
// namespace restores the value. The last daemon to leave restores it too. All
// of this happens under startLock.

const (
	rpStrict = 1
	rpLoose  = 2

	rpFilePrefix = "rp_filter."
)

// rpState is the content of such a file.
type rpState struct {
	Boot   string   // boot_id: after a reboot the file means nothing
	Saved  int      // the interface's value before us
	Owners []uint32 // table numbers of the daemons that need it loose
}

// StrictRPFilter says whether the reverse-path filter of an interface is strict.
func StrictRPFilter(iface string) (bool, error) {
	all, err := readRPFilter("all")
	if err != nil {
		return false, err
	}
	own, err := readRPFilter(iface)
	return max(all, own) == rpStrict, err
}

// LoosenRPFilter makes the interface's reverse-path filter loose if it is strict. Undo of the
// change, or Close of the Host, restores it, unless another daemon still needs it loose or
// somebody has set another value meanwhile. The change is nil if there was nothing to do.
func (h *Host) LoosenRPFilter(iface string) (*Change, error) {
	var done *Change
	err := underStartLock(func() error {
		path, err := h.rpFile(iface)
		if err != nil {
			return err
		}
		st, err := readRPState(path)
		if err != nil {
			return err
		}
		if st == nil {
			strict, err := StrictRPFilter(iface)
			if err != nil || !strict {
				return err
			}
			own, err := readRPFilter(iface)
			if err != nil {
				return err
			}
			st = &rpState{Boot: bootID(), Saved: own}
		}
		if slices.Contains(st.Owners, h.table) {
			return nil
		}
		st.Owners = append(st.Owners, h.table)
		if err := st.write(path); err != nil {
			return err
		}
		if err := writeRPFilter(iface, rpLoose); err != nil {
			return errors.Join(err, h.leaveRPFilter(iface, path))
		}
		done = h.ledger.Record("rp_filter of "+iface, func() error {
			return underStartLock(func() error { return h.leaveRPFilter(iface, path) })
		})
		return nil
	})
	return done, err
}

func (h *Host) leaveRPFilter(iface, path string) error {
	return h.leaveSysctl(path, rpLoose, func() (int, error) { return readRPFilter(iface) }, func(n int) error { return writeRPFilter(iface, n) })
}

// leaveSysctl takes us, and whoever lives no more, off the owners of a sysctl. The last of them restores it, if it is what we
// made it.
func (h *Host) leaveSysctl(path string, ours int, read func() (int, error), write func(int) error) error {
	st, err := readRPState(path)
	if err != nil || st == nil {
		return err
	}
	st.Owners = slices.DeleteFunc(st.Owners, func(table uint32) bool {
		return table == h.table || !lockHeld(tableLock(table))
	})
	if len(st.Owners) > 0 {
		return st.write(path)
	}
	if now, err := read(); err == nil && now == ours {
		if err := write(st.Saved); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// restoreStaleRPFilters does that for every file of this namespace. The caller holds startLock.
func (h *Host) restoreStaleRPFilters() error {
	ns, err := netnsID()
	if err != nil {
		return err
	}
	files, err := os.ReadDir(h.stateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("folder for saved sysctls: %w", err)
	}
	for _, f := range files {
		iface, ok := strings.CutPrefix(f.Name(), rpFilePrefix+ns+".")
		if !ok {
			continue
		}
		if err := h.leaveRPFilter(iface, filepath.Join(h.stateDir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) rpFile(iface string) (string, error) {
	if h.stateDir == "" {
		return "", errors.New("no folder for saved sysctls")
	}
	if strings.ContainsAny(iface, "/") || iface == "" || iface == "." || iface == ".." {
		return "", fmt.Errorf("interface name %q", iface)
	}
	if err := os.MkdirAll(h.stateDir, 0o700); err != nil {
		return "", fmt.Errorf("folder for saved sysctls: %w", err)
	}
	ns, err := netnsID()
	if err != nil {
		return "", err
	}
	return filepath.Join(h.stateDir, rpFilePrefix+ns+"."+iface), nil
}

// readRPState returns nil if there is no file, or none of this boot. An unreadable file is
// removed: there is nothing in it to restore.
func readRPState(path string) (*rpState, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("saved sysctl: %w", err)
	}
	st := &rpState{}
	if json.Unmarshal(b, st) != nil || st.Boot != bootID() || st.Saved < 0 || st.Saved > rpLoose {
		return nil, os.Remove(path)
	}
	return st, nil
}

func (st *rpState) write(path string) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("save sysctl: %w", err)
	}
	return os.Rename(path+".new", path)
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

func rpPath(iface string) string { return "/proc/sys/net/ipv4/conf/" + iface + "/rp_filter" }

func readRPFilter(iface string) (int, error) {
	b, err := os.ReadFile(rpPath(iface))
	if err != nil {
		return 0, fmt.Errorf("rp_filter of %s: %w", iface, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("rp_filter of %s: %w", iface, err)
	}
	return n, nil
}

func writeRPFilter(iface string, value int) error {
	err := os.WriteFile(rpPath(iface), []byte(strconv.Itoa(value)), 0)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("rp_filter of %s is strict and may not be changed here: set net.ipv4.conf.%s.rp_filter=%d from outside", iface, iface, value)
	}
	if err != nil {
		return fmt.Errorf("rp_filter of %s: %w", iface, err)
	}
	return nil
}
