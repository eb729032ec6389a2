package tun

import (
	"errors"
	"io/fs"
	"testing"
)

// Packets wait for their SA while a daemon runs that wants it, killed ones do not count, and what was is restored.
func TestPacketsWaitForTheRunAlone(t *testing.T) {
	enterNamespace(t)
	dir := t.TempDir()
	if _, err := readLarvalDrop(); errors.Is(err, fs.ErrNotExist) {
		t.Skip("this kernel has no IPsec of its own")
	}
	check := func(when string, want int) {
		t.Helper()
		got, err := readLarvalDrop()
		ok(t, err)
		if got != want {
			t.Errorf("%s: xfrm_larval_drop is %d, want %d", when, got, want)
		}
	}
	check("before", 1)
	h := openHost(t, "one", dir)
	change, err := h.HoldWithoutSA()
	ok(t, err)
	if change == nil {
		t.Error("nothing was changed")
	}
	check("held", 0)
	other := startDaemon(t, daemonConfig{Name: "two", Dir: dir, Hold: true})
	ok(t, h.Close())
	check("another one still needs it", 0)
	other.kill()
	check("after kill -9", 0)
	h = openHost(t, "three", dir)
	check("after the next start of anybody", 1)
	_, err = h.HoldWithoutSA()
	ok(t, err)
	ok(t, writeLarvalDrop(1))
	ok(t, writeLarvalDrop(0))
	ok(t, h.Close())
	check("closed", 1)
	noStateLeft(t, dir)

	ok(t, writeLarvalDrop(0))
	h = openHost(t, "four", dir)
	if change, err := h.HoldWithoutSA(); change != nil || err != nil {
		t.Errorf("where packets wait already something was changed: %v", err)
	}
	ok(t, h.Close())
	check("who found it so leaves it so", 0)
}
