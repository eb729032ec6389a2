package tun

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Locks are listening unix sockets with abstract names: per network namespace like the things
// they guard, and gone with the process that held them, also after SIGKILL. They tell the
// living from the stale and give an error its process number; they are no security boundary
// (any local process may bind such a name, and then is named as the holder).

const (
	lockPrefix = "coati/"
	// startLock is held only while a daemon looks around and claims its things, so that two
	// starting at once can't mistake each other's probing for a living owner.
	startLock     = lockPrefix + "start"
	startLockWait = 5 * time.Second
	startLockPoll = 5 * time.Millisecond
)

type lock struct{ fd int }

// takeLock returns unix.EADDRINUSE when somebody holds it.
func takeLock(name string) (*lock, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return &lock{fd}, nil
}

func (l *lock) release() error { return unix.Close(l.fd) }

// lockHeld must be called under startLock, as it takes the lock for a moment.
func lockHeld(name string) bool {
	l, err := takeLock(name)
	if err != nil {
		return errors.Is(err, unix.EADDRINUSE)
	}
	l.release()
	return false
}

// lockHolder names the process that holds a lock, for an error text. A holder in another PID
// namespace has no number here.
func lockHolder(name string) string {
	const anonymous = "another coati"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return anonymous
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + name}) != nil {
		return anonymous
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid == 0 {
		return anonymous
	}
	return fmt.Sprintf("%s (pid %d)", anonymous, cred.Pid)
}

// locksNamed lists the held locks of this namespace whose name starts with prefix.
func locksNamed(prefix string) []string {
	f, err := os.Open("/proc/thread-self/net/unix")
	if err != nil {
		return nil
	}
	defer f.Close()
	var names []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if _, name, ok := strings.Cut(sc.Text(), " @"); ok && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// underStartLock runs f while no other daemon of this namespace is starting or stopping.
func underStartLock(f func() error) error {
	give := time.Now().Add(startLockWait)
	for {
		l, err := takeLock(startLock)
		if err == nil {
			defer l.release()
			return f()
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		if time.Now().After(give) {
			return fmt.Errorf("%s has been starting or stopping for %v here: look whether it hangs", lockHolder(startLock), startLockWait)
		}
		time.Sleep(startLockPoll)
	}
}
