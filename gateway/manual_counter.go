package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"coati/policy"
)

// A fixed key with a counter mode must never see a number twice, restarts and crashes included (RFC 8221, section 3; RFC
// 4106, section 3.1). So numbers are reserved on disk before they are used: a file for each key holds the last number that
// may have been used, is replaced whole and written through, and is locked while the key is in use.

// reservation is how many numbers are reserved at a time: what a crash burns. Half of it must last from one look at the
// counter to the next, a second.
const reservation = 1 << 22

// defaultCounterDir outlives a restart of the machine.
const defaultCounterDir = "/var/lib/coati/counters"

// lastNumber of a manual key: it has no extended numbers, because nobody agreed on them.
const lastNumber = 1<<32 - 1

// counterStore is a folder of counters.
type counterStore struct{ dir string }

// counter is the reservation of one key.
type counter struct {
	path     string
	lock     *os.File
	reserved uint64 // the last number that may be used
}

// errUsedUp: the key has no numbers left.
var errUsedUp = errors.New("the sequence numbers of this key are used up: it needs another key (RFC 4303, section 3.3.3)")

const counterForm = "coati-counter 1 "

// open locks the counter of a key. Where it cannot be read for certain the key is refused: a number too low gives away the
// plaintext.
func (s *counterStore) open(t policy.Transform, key policy.Secret) (*counter, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the counters: %w", err)
	}
	// The name says nothing of the key. The algorithm is left out of it: AES in two counter modes is still one key.
	mac := hmac.New(sha256.New, key.Reveal())
	mac.Write([]byte("coati counter"))
	c := &counter{path: filepath.Join(s.dir, fmt.Sprintf("%x", mac.Sum(nil)[:16]))}
	var err error
	if c.lock, err = os.OpenFile(c.path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600); err != nil {
		return nil, fmt.Errorf("counter of the key: %w", err)
	}
	if err := syscall.Flock(int(c.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("the key of %s is in use by another coati or another association: two would repeat nonces", t), c.lock.Close())
	}
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		text, ok := strings.CutPrefix(string(b), counterForm)
		digits, whole := strings.CutSuffix(text, "\n")
		if c.reserved, err = strconv.ParseUint(digits, 10, 64); err != nil || !ok || !whole {
			err = errors.New("is no counter: the key cannot be used again")
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("counter %s: %w", c.path, err), c.lock.Close())
	}
	return c, nil
}

// reserve makes all numbers up to last usable, or as many as there are. It returns when that is on disk.
func (c *counter) reserve(last uint64) error {
	last = min(last, lastNumber)
	if last <= c.reserved {
		return errUsedUp
	}
	if err := c.write(last); err != nil {
		return err
	}
	c.reserved = last
	return nil
}

// settle gives back all numbers after used. Nothing may be sent any more.
func (c *counter) settle(used uint64) error {
	if used >= c.reserved {
		return nil
	}
	c.reserved = used
	return c.write(used)
}

func (c *counter) write(last uint64) error {
	fresh := c.path + ".new"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("counter: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s%d\n", counterForm, last)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("counter: %w", err)
	}
	if err := os.Rename(fresh, c.path); err != nil {
		return fmt.Errorf("counter: %w", err)
	}
	dir, err := os.Open(filepath.Dir(c.path))
	if err != nil {
		return fmt.Errorf("counter: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (c *counter) close() error { return c.lock.Close() }
