package config

import (
	"bytes"
	"path/filepath"
	"slices"

	"coati/policy"
)

// Foreign is a file of another program that was made into the text of a native one. What is wrong with it is said of the
// place a line came from.
type Foreign struct {
	File   string  // what the native text stands for; paths in it are relative to its folder
	Text   []byte  // TOML
	Origin []Place // of each line of Text
	// Secrets are the pre-shared keys that psk-file names, which are not read from disk.
	Secrets map[string]policy.Secret
	// Files are those of keys, in PEM, and of passwords, which are not read from disk.
	Files map[string]policy.Secret
}

// Place is a line of another program's file, and the directive there.
type Place struct {
	File      string
	Line      int
	Directive string
}

// LoadWith is Load of native files together with others.
func LoadWith(files []string, foreign []Foreign) (*Config, []Fault) {
	l := newLoader()
	l.readFiles(files)
	for i := range foreign {
		l.readForeign(&foreign[i])
	}
	c, faults := l.finish()
	return c, sayDirectives(faults, foreign)
}

func (l *loader) readForeign(f *Foreign) {
	for _, p := range f.Origin {
		if _, known := l.order[p.File]; !known {
			l.order[p.File] = len(l.order)
		}
	}
	dir, err := filepath.Abs(filepath.Dir(f.File))
	if err != nil {
		l.errorf(position{f.File, 0}, "its folder is unknown: %s", err)
		return
	}
	for name, s := range f.Secrets {
		l.psks[filepath.Clean(filepath.Join(dir, name))] = &pskFile{secret: s}
	}
	for name, data := range f.Files {
		l.memory[filepath.Clean(filepath.Join(dir, name))] = data.Reveal()
	}
	root := parse(f.File, slices.Clip(f.Text), &l.report)
	if root == nil {
		return
	}
	root.relocate(f.Origin)
	l.decodeRoot(root, dir)
}

// relocate gives each value of a tree the place its line came from.
func (t *value) relocate(origin []Place) {
	at := func(p *position) {
		if p.line >= 1 && p.line <= len(origin) {
			o := origin[p.line-1]
			*p = position{o.File, o.Line}
		}
	}
	at(&t.at)
	for i := range t.fields {
		at(&t.fields[i].at)
		t.fields[i].v.relocate(origin)
	}
	for _, v := range t.list {
		v.relocate(origin)
	}
}

// sayDirectives puts the directive in front of what is said of its line.
func sayDirectives(faults []Fault, foreign []Foreign) []Fault {
	names := map[position]string{}
	for i := range foreign {
		for _, p := range foreign[i].Origin {
			names[position{p.File, p.Line}] = p.Directive
		}
	}
	for i, f := range faults {
		if n := names[position{f.File, f.Line}]; n != "" {
			faults[i].Message = n + ": " + f.Message
		}
	}
	return faults
}

// privateFile is the content of a file of private keys or passwords.
func (l *loader) privateFile(path string) ([]byte, error) {
	if data, ok := l.memory[path]; ok {
		return bytes.Clone(data), nil
	}
	return readSecretFile(path, l.config.Gateway.SecretsPermissions)
}

// publicFile is the content of a public key's file.
func (l *loader) publicFile(path string) ([]byte, error) {
	if data, ok := l.memory[path]; ok {
		return data, nil
	}
	return readPublicFile(path)
}
