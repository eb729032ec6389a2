package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Where the kernel's IPsec moves ESP, a packet that asks for an SA is refused (EAGAIN), or waits with up to a hundred others
// of its policy until there is one: as net.core.xfrm_larval_drop says, whose default refuses. It is one for a network namespace,
// so it is shared with other daemons as the reverse-path filter is: the last to leave restores it.

const (
	larvalDrop = "/proc/sys/net/core/xfrm_larval_drop"
	holdPrefix = "xfrm_larval_drop."
)

// HoldWithoutSA lets packets wait for their SA. Undo of the change, or Close of the Host, restores what was, unless another
// daemon still needs it or somebody has set it meanwhile. The change is nil if there was nothing to do.
func (h *Host) HoldWithoutSA() (*Change, error) {
	var done *Change
	err := underStartLock(func() error {
		path, err := h.holdFile()
		if err != nil {
			return err
		}
		st, err := readRPState(path)
		if err != nil {
			return err
		}
		if st == nil {
			was, err := readLarvalDrop()
			if err != nil || was == 0 {
				return err
			}
			st = &rpState{Boot: bootID(), Saved: was}
		}
		if slices.Contains(st.Owners, h.table) {
			return nil
		}
		st.Owners = append(st.Owners, h.table)
		if err := os.MkdirAll(h.stateDir, 0o700); err != nil {
			return fmt.Errorf("folder for saved sysctls: %w", err)
		}
		if err := st.write(path); err != nil {
			return err
		}
		if err := writeLarvalDrop(0); err != nil {
			return errors.Join(err, h.leaveHold(path))
		}
		done = h.ledger.Record("xfrm_larval_drop", func() error {
			return underStartLock(func() error { return h.leaveHold(path) })
		})
		return nil
	})
	return done, err
}

func (h *Host) leaveHold(path string) error {
	return h.leaveSysctl(path, 0, readLarvalDrop, writeLarvalDrop)
}

// restoreStaleHold does that for a daemon that was killed. The caller holds startLock.
func (h *Host) restoreStaleHold() error {
	path, err := h.holdFile()
	if err != nil {
		return nil // nothing can have been saved
	}
	return h.leaveHold(path)
}

func (h *Host) holdFile() (string, error) {
	if h.stateDir == "" {
		return "", errors.New("no folder for saved sysctls")
	}
	ns, err := netnsID()
	return filepath.Join(h.stateDir, holdPrefix+ns), err
}

func readLarvalDrop() (int, error) {
	b, err := os.ReadFile(larvalDrop)
	if err != nil {
		return 0, fmt.Errorf("xfrm_larval_drop: %w", err)
	}
	// A number that means anything but zero is one.
	if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err != nil || n != 0 {
		return 1, err
	}
	return 0, nil
}

func writeLarvalDrop(n int) error {
	err := os.WriteFile(larvalDrop, []byte(strconv.Itoa(n)), 0)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("it may not be changed here: set net.core.xfrm_larval_drop=%d from outside", n)
	}
	if err != nil {
		return fmt.Errorf("xfrm_larval_drop: %w", err)
	}
	return nil
}
