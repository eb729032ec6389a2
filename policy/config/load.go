package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// loader is one run of Load.
type loader struct {
	report
	config      *Config
	gatewayKeys map[string]position // already set, by this file or another
	drafts      []*draft
	byName      map[string]*draft
	psks        map[string]*pskFile
	memory      map[string][]byte // files of keys that are not on disk
	certs       map[string]parts[*x509.Certificate]
	crls        map[string]parts[*x509.RevocationList]
	now         func() time.Time
}

func newLoader() *loader {
	return &loader{
		report:      report{order: map[string]int{}},
		config:      &Config{Gateway: DefaultGateway(), PSKFiles: map[string]string{}, where: map[string]position{}},
		gatewayKeys: map[string]position{},
		byName:      map[string]*draft{},
		psks:        map[string]*pskFile{},
		memory:      map[string][]byte{},
		certs:       map[string]parts[*x509.Certificate]{},
		crls:        map[string]parts[*x509.RevocationList]{},
		now:         time.Now,
	}
}

// Load reads the files as one configuration and returns it with every fault found, in the order of files and lines.
// If one of the faults is an error the configuration is nil. Files are at most MaxFile octets.
func Load(files []string) (*Config, []Fault) {
	l := newLoader()
	if len(files) == 0 {
		l.errorf(position{}, "no configuration file named")
	}
	l.readFiles(files)
	return l.finish()
}

func (l *loader) readFiles(files []string) {
	for _, file := range files {
		if _, twice := l.order[file]; twice {
			l.errorf(position{file, 0}, "named twice")
			continue
		}
		l.order[file] = len(l.order)
		data, err := readFile(file)
		if err != nil {
			l.errorf(position{file, 0}, "%s", err)
			continue
		}
		l.read(file, data)
	}
}

// Parse is Load of one file whose content is at hand. The name is used in faults and to find the files it refers to.
func Parse(file string, data []byte) (*Config, []Fault) {
	l := newLoader()
	l.order[file] = 0
	l.read(file, data)
	return l.finish()
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, plainError(err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, errors.New("is a folder: name the files in it")
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, plainError(err)
	}
	if len(data) > MaxFile {
		return nil, fmt.Errorf("is larger than %d MiB: split it", MaxFile>>20)
	}
	return data, nil
}

// plainError says what is wrong with a file without its name, which stands in front already.
func plainError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("no such file")
	}
	if errors.Is(err, fs.ErrPermission) {
		return errors.New("may not be read by this user")
	}
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err
	}
	return err
}

// read decodes one file into the gateway's settings and drafts of tunnels.
func (l *loader) read(file string, data []byte) {
	root := parse(file, slices.Clip(data), &l.report)
	if root == nil {
		return
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		l.errorf(position{file, 0}, "its folder is unknown: %s", err)
		return
	}
	l.decodeRoot(root, dir)
}

// decodeRoot reads a file's tree; paths in it are relative to dir.
func (l *loader) decodeRoot(root *value, dir string) {
	decode(l, root, "the file", []key[string]{
		{"gateway", func(l *loader, _ *string, k setting) { l.readGateway(k) }},
		{"tunnel", func(l *loader, dir *string, k setting) { l.readTunnels(k, *dir) }},
	}, &dir)
}

// finish checks what only all files together can tell.
func (l *loader) finish() (*Config, []Fault) {
	l.checkGateway()
	for _, d := range l.drafts {
		l.finishTunnel(d)
	}
	l.checkClaims()
	l.checkPlane()
	if len(l.drafts) == 0 && l.errors == 0 {
		l.warnf(position{}, "no tunnel is configured: add a table [tunnel.NAME]")
	}
	if l.errors > 0 {
		return nil, l.sorted()
	}
	for _, d := range l.drafts {
		l.config.Tunnels = append(l.config.Tunnels, d.tunnel)
	}
	return l.config, l.sorted()
}
