package legacy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Bounds on what a configuration of several files may be.
const (
	maxIncludeDepth = 16
	maxFiles        = 1000
	maxOctets       = 64 << 20 // of all files together
)

// Disk is where readers find the files that a file names.
type Disk struct {
	Read func(name string) ([]byte, error)
	// Secret reads a file that only its owner may use: root or ourselves.
	Secret func(name string) ([]byte, error)
	Glob   func(pattern string) ([]string, error)
}

// SystemDisk is the machine's own.
func SystemDisk() Disk {
	return Disk{Read: func(n string) ([]byte, error) { return readFile(n, false) }, Secret: func(n string) ([]byte, error) { return readFile(n, true) }, Glob: filepath.Glob}
}

func readFile(name string, secret bool) ([]byte, error) {
	// A device or a pipe might hold us up, or do something.
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return nil, errors.New("is a folder: name the files in it")
	} else if err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("is no ordinary file")
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			return nil, p.Err
		}
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, errors.New("cannot be looked at")
	}
	if secret {
		if err := ownersAlone(info, os.Geteuid()); err != nil {
			return nil, err
		}
	}
	if info.Size() > MaxScript {
		return nil, fmt.Errorf("is larger than %d MiB: split it", MaxScript>>20)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxScript+1))
	if err != nil {
		return nil, errors.New("cannot be read to its end")
	}
	if len(data) > MaxScript {
		return nil, fmt.Errorf("is larger than %d MiB: split it", MaxScript>>20)
	}
	return data, nil
}

// ownersAlone is racoon's rule for psk.txt: it belongs to the user that runs the daemon or to root, and nobody else may read,
// write or execute it.
func ownersAlone(info fs.FileInfo, uid int) error {
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return fmt.Errorf("others may use it (mode %04o): run chmod 600", m)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner is unknown")
	}
	if st.Uid != 0 && int(st.Uid) != uid {
		return fmt.Errorf("it belongs to user %d: run chown %d", st.Uid, uid)
	}
	return nil
}

// shelf counts what was read from a disk.
type shelf struct {
	Disk
	files, octets int
}

func (s *shelf) read(name string, secret bool) ([]byte, error) {
	if s.files++; s.files > maxFiles {
		return nil, fmt.Errorf("is one file too many: at most %d are read", maxFiles)
	}
	from := s.Read
	if secret {
		from = s.Secret
	}
	data, err := from(name)
	if err != nil {
		return nil, err
	}
	if s.octets += len(data); s.octets > maxOctets {
		return nil, fmt.Errorf("is too much: all files together may have %d MiB", maxOctets>>20)
	}
	return data, nil
}
