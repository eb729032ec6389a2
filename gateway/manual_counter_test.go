package gateway

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"coati/policy"
)

var fixed = policy.NewSecret([]byte("a key of 16 octesalt"))

var aesGCM = policy.LookupKeyword("aes128gcm16").Transform()

func opened(t *testing.T, dir string) *counter {
	t.Helper()
	c, err := (&counterStore{dir}).open(aesGCM, fixed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.close() })
	return c
}

func TestWhatWasReservedIsNeverGivenAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "counters")
	c := opened(t, dir)
	if c.reserved != 0 {
		t.Errorf("a new key begins after %d", c.reserved)
	}
	if err := c.reserve(1000); err != nil {
		t.Fatal(err)
	}
	if _, err := (&counterStore{dir}).open(aesGCM, fixed); err == nil || !strings.Contains(err.Error(), "two would repeat nonces") {
		t.Errorf("a key was opened twice: %v", err)
	}
	// A crash: nothing is settled.
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	c = opened(t, dir)
	if c.reserved != 1000 {
		t.Errorf("after a crash it begins after %d, want 1000", c.reserved)
	}
	if err := c.reserve(999); err == nil {
		t.Error("a reservation went back")
	}
	if err := c.reserve(5000); err != nil {
		t.Fatal(err)
	}
	// An orderly end gives back what was not used, and no more.
	if err := c.settle(1234); err != nil {
		t.Fatal(err)
	}
	if err := c.settle(9999); err != nil {
		t.Fatal(err)
	}
	_ = c.close()
	if c = opened(t, dir); c.reserved != 1234 {
		t.Errorf("after an orderly end it begins after %d, want 1234", c.reserved)
	}
}

// A crash while a reservation is being written leaves the one before, or the new one, and never less.
func TestACrashWhileWritingLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := opened(t, dir)
	if err := c.reserve(1000); err != nil {
		t.Fatal(err)
	}
	_ = c.close()
	if err := os.WriteFile(c.path+".new", []byte(counterForm+"20"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c = opened(t, dir); c.reserved != 1000 {
		t.Errorf("it begins after %d, want 1000", c.reserved)
	}
	if err := c.reserve(2000); err != nil {
		t.Error(err)
	}
}

func TestACounterThatCannotBeReadKeepsItsKeyFromUse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "coati-counter 1 ", "coati-counter 1 12", "coati-counter 1 -1\n", "coati-counter 2 12\n", "12\n", "coati-counter 1 12\n\n", "coati-counter 1 99999999999999999999\n"} {
		dir := t.TempDir()
		c := opened(t, dir)
		_ = c.close()
		if err := os.WriteFile(c.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := (&counterStore{dir}).open(aesGCM, fixed); err == nil {
			t.Errorf("%q was read as %d", text, c.reserved)
			_ = c.close()
		}
	}
	// Nor is a key used whose numbers cannot be written.
	c := opened(t, t.TempDir())
	if err := os.Mkdir(c.path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.reserve(10); err == nil || c.reserved != 0 {
		t.Errorf("%d numbers were reserved nowhere: %v", c.reserved, err)
	}
}

func TestNumbersEnd(t *testing.T) {
	t.Parallel()
	c := opened(t, t.TempDir())
	if err := c.reserve(1 << 40); err != nil || c.reserved != lastNumber {
		t.Errorf("%d, %v", c.reserved, err)
	}
	if err := c.reserve(1 << 41); err != errUsedUp {
		t.Errorf("more than all: %v", err)
	}
}

func TestTheNameOfACounterSaysNothingOfItsKey(t *testing.T) {
	t.Parallel()
	c := opened(t, t.TempDir())
	other, err := (&counterStore{filepath.Dir(c.path)}).open(aesGCM, policy.NewSecret([]byte("b key of 16 octesalt")))
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if c.path == other.path || strings.Contains(c.path, "a key") {
		t.Errorf("%s and %s", c.path, other.path)
	}
	if info, err := os.Stat(c.path + ".lock"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
