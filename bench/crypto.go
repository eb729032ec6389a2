package bench

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"coati/esp/batch"
)

// CryptoOptions chooses what a crypto run measures. Empty means the usual.
type CryptoOptions struct {
	Transforms []string
	Sizes      []int // of the encrypted text, octets
	Batches    []int // jobs in a call
	Rounds     int
	Turn       time.Duration // of one side in one round
}

// CryptoRow is one transform at one size, in batches of one direction: the kernels of this machine, best first, Go's own calls,
// and Intel's multi-buffer library where it is.
type CryptoRow struct {
	Transform string       `json:"transform"`
	Direction string       `json:"direction"`
	Size      int          `json:"size"`
	Batch     int          `json:"batch"`
	Sides     []CryptoSide `json:"sides"`
	Ratio     float64      `json:"ratio"` // of the first kernel to Go's own calls
	Low       float64      `json:"low"`   // of the ratio's 95 % interval
	High      float64      `json:"high"`
}

// CryptoSide is who seals and opens, and how fast in each round: octets of text a second.
type CryptoSide struct {
	Name   string    `json:"name"`
	Values []float64 `json:"values"`
	Median float64   `json:"median"`
	Spread float64   `json:"spread"`
}

// The names of sides that are no kernels of ours.
const (
	goCalls = "go"
	ipsecMB = "libipsec-mb"
)

// side finds a side by its name, nil if it took no part.
func (r *CryptoRow) side(name string) *CryptoSide {
	for i := range r.Sides {
		if r.Sides[i].Name == name {
			return &r.Sides[i]
		}
	}
	return nil
}

// Cycles an octet, at so many MHz.
func (s CryptoSide) Cycles(mhz float64) float64 { return mhz * 1e6 / s.Median }

type transform struct {
	name    string
	keyLen  int
	macLen  int // 0: an AEAD
	newHash func() hash.Hash
}

const chaCha = "chacha20poly1305"

var transforms = []transform{
	{"aes128gcm16", 16, 0, nil},
	{"aes192gcm16", 24, 0, nil},
	{"aes256gcm16", 32, 0, nil},
	{chaCha, 32, 0, nil},
	{"aes128-sha1", 16, 12, sha1.New},
	{"aes128-sha256", 16, 16, sha256.New},
	{"aes256-sha256", 32, 16, sha256.New},
	{"aes256-sha512", 32, 32, sha512.New},
}

// cipherAims are the ratios of the best kernel that matter, and what they should be where that is vaes512.
var cipherAims = []struct {
	transform, direction string
	size, batch          int
	to                   string
	atLeast              float64
}{
	{"aes128gcm16", "seal", 1408, 32, ipsecMB, 0.9},
	{"aes128gcm16", "open", 1408, 32, ipsecMB, 0.9},
	{"aes256gcm16", "seal", 1408, 32, ipsecMB, 0.9},
	{"aes256gcm16", "open", 1408, 32, ipsecMB, 0.9},
	{"aes128gcm16", "seal", 1408, 32, goCalls, 1.8},
	{"aes128gcm16", "open", 1408, 32, goCalls, 1.8},
	{"aes256gcm16", "seal", 1408, 32, goCalls, 1.8},
	{"aes256gcm16", "open", 1408, 32, goCalls, 1.8},
	{"aes128gcm16", "seal", 64, 32, ipsecMB, 1.2},
	{"aes128gcm16", "open", 64, 32, ipsecMB, 1.2},
	{"aes128-sha256", "seal", 1408, 32, ipsecMB, 0.6},
	{"aes128-sha1", "seal", 1408, 32, ipsecMB, 0.6},
	{chaCha, "seal", 1408, 32, goCalls, 1},
	{chaCha, "open", 1408, 32, goCalls, 1},
}

// cipherRatios are those of cipherAims that were measured.
func (r *Report) cipherRatios() (out []Ratio) {
	for _, w := range cipherAims {
		for i := range r.Crypto {
			x := &r.Crypto[i]
			if x.Transform != w.transform || x.Direction != w.direction || x.Size != w.size || x.Batch != w.batch {
				continue
			}
			of, to := x.Sides[0], x.side(w.to)
			if to == nil {
				continue
			}
			ratio := Ratio{
				Title: fmt.Sprintf("%s %s, %d octets, batches of %d", x.Transform, x.Direction, x.Size, x.Batch), Of: of.Name, To: to.Name, Rounds: len(of.Values),
				OfMedian: of.Median / 1e9, ToMedian: to.Median / 1e9, Unit: "GB/s", AtLeast: w.atLeast,
			}
			if of.Name != batch.VAES512 {
				ratio.AtLeast = 0
			}
			ratio.Ratio, ratio.Low, ratio.High = ratioOf(of.Values, to.Values)
			ratio.Noisy = ratio.Rounds < fewRounds || (ratio.High-ratio.Low)/ratio.Ratio > noisyInterval || max(of.Spread, to.Spread) > noisySpread
			out = append(out, ratio)
		}
	}
	return out
}

// TransformNames lists what may be chosen.
func TransformNames() (names []string) {
	for _, t := range transforms {
		names = append(names, t.name)
	}
	return names
}

// cryptoSlab is how many octets of text are in work: more than fit into the first cache level and less than the second.
const cryptoSlab = 1 << 19

// headLen is what ESP without ESN authenticates in front of the text: its header, and CBC's IV.
func (t transform) headLen() int {
	if t.newHash != nil {
		return 24
	}
	return 8
}

// kernelKey makes the key of one of our kernels. The cipher's key is 0, 1, 2 and so on, the hash's zeros of its own size.
func (t transform) kernelKey(kernel string) (batch.Key, error) {
	switch {
	case t.newHash != nil:
		return batch.NewCBCFor(kernel, t.octets(), make([]byte, t.newHash().Size()), t.newHash, t.macLen)
	case t.name == chaCha:
		return batch.NewChaCha20Poly1305For(kernel, t.octets())
	}
	return batch.NewGCMFor(kernel, t.octets())
}

// goKey makes Go's for the same octets.
func (t transform) goKey() (batch.Key, error) {
	if t.name == chaCha {
		aead, err := chacha20poly1305.New(t.octets())
		return goAEAD{aead}, err
	}
	block, err := aes.NewCipher(t.octets())
	if err != nil {
		return nil, err
	}
	if t.newHash == nil {
		aead, err := cipher.NewGCM(block)
		return goAEAD{aead}, err
	}
	return &goCBC{block, hmac.New(t.newHash, make([]byte, t.newHash().Size())), t.macLen, make([]byte, 0, sha512.Size)}, nil
}

func (t transform) octets() []byte {
	key := make([]byte, t.keyLen)
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

// goAEAD is what a program without batches calls for every packet.
type goAEAD struct{ aead cipher.AEAD }

func (g goAEAD) TagLen() int { return g.aead.Overhead() }

func (g goAEAD) Seal(jobs []batch.Job) {
	for i := range jobs {
		j := &jobs[i]
		g.aead.Seal(j.Text[:0], j.IV[:12], j.Text, j.Head)
	}
}

func (g goAEAD) Open(jobs []batch.Job) {
	for i := range jobs {
		j := &jobs[i]
		_, err := g.aead.Open(j.Text[:0], j.IV[:12], j.Text[:len(j.Text)+16], j.Head)
		j.OK = err == nil
	}
}

type goCBC struct {
	block  cipher.Block
	mac    hash.Hash
	tagLen int
	sum    []byte
}

func (g *goCBC) TagLen() int { return g.tagLen }

func (g *goCBC) tag(j *batch.Job) []byte {
	g.mac.Reset()
	g.mac.Write(j.Head)
	g.mac.Write(j.Text)
	g.mac.Write(j.Tail)
	return g.mac.Sum(g.sum[:0])[:g.tagLen]
}

func (g *goCBC) Seal(jobs []batch.Job) {
	for i := range jobs {
		j := &jobs[i]
		cipher.NewCBCEncrypter(g.block, j.IV[:]).CryptBlocks(j.Text, j.Text)
		copy(j.Text[len(j.Text):cap(j.Text)], g.tag(j))
	}
}

func (g *goCBC) Open(jobs []batch.Job) {
	for i := range jobs {
		j := &jobs[i]
		j.OK = hmac.Equal(g.tag(j), j.Text[len(j.Text):][:g.tagLen:g.tagLen])
		cipher.NewCBCDecrypter(g.block, j.IV[:]).CryptBlocks(j.Text, j.Text)
	}
}

// complete fills in what is usual, and finds the transforms.
func (o *CryptoOptions) complete() ([]transform, error) {
	if len(o.Sizes) == 0 {
		o.Sizes = []int{64, 576, 1408, 8192}
	}
	if len(o.Batches) == 0 {
		o.Batches = []int{1, 8, 32}
	}
	if o.Rounds <= 0 {
		o.Rounds = 7
	}
	if o.Turn <= 0 {
		o.Turn = 4 * time.Millisecond
	}
	for _, size := range o.Sizes {
		if size < 16 || size%16 != 0 || size > 1<<16 {
			return nil, &ChoiceError{"size", fmt.Sprint(size), "a multiple of 16 from 16 to 65536"}
		}
	}
	for _, n := range o.Batches {
		if n < 1 || n > 1024 {
			return nil, &ChoiceError{"batch", fmt.Sprint(n), "1 to 1024"}
		}
	}
	if len(o.Transforms) == 0 {
		return transforms, nil
	}
	var chosen []transform
	for _, name := range o.Transforms {
		at := slices.IndexFunc(transforms, func(t transform) bool { return t.name == name })
		if at < 0 {
			return nil, unknown("transform", name, TransformNames())
		}
		chosen = append(chosen, transforms[at])
	}
	return chosen, nil
}

// cipherKernels are those to be measured: all of this machine, or the one that COATI_CPU names.
func cipherKernels() []string {
	if os.Getenv("COATI_CPU") == "" {
		return batch.Kernels()
	}
	kernel, _ := batch.Kernel()
	return []string{kernel}
}

// Crypto measures ciphers alone.
func Crypto(ctx context.Context, o CryptoOptions, p *Progress, r *Report) error {
	chosen, err := o.complete()
	if err != nil {
		return err
	}
	if _, err := batch.Kernel(); err != nil {
		r.note("%v", err)
	}
	mb, err := startMultiBuffer(ctx)
	if err != nil {
		r.note("libipsec-mb took no part: %v", err)
	} else {
		defer mb.stop()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.begin("crypto", len(chosen)*len(o.Sizes)*len(o.Batches)*2)
	defer p.end()
	for _, t := range chosen {
		for _, size := range o.Sizes {
			for _, n := range o.Batches {
				for _, open := range []bool{false, true} {
					row, err := t.measure(ctx, o, size, n, open, mb)
					if err != nil {
						return err
					}
					r.Crypto = append(r.Crypto, row)
					best := row.Sides[0]
					p.step(fmt.Sprintf("%-16s %-4s %5d x %-3d %6.2f GB/s  %5.2f cycles an octet  %.2f x Go's", t.name, row.Direction, size, n, best.Median/1e9, best.Cycles(r.Machine.MHz), row.Ratio))
				}
			}
		}
	}
	return nil
}

// measure takes turns: each kernel, Go's calls, libipsec-mb, and again.
func (t transform) measure(ctx context.Context, o CryptoOptions, size, n int, open bool, mb *multiBuffer) (CryptoRow, error) {
	row := CryptoRow{Transform: t.name, Direction: "seal", Size: size, Batch: n}
	if open {
		row.Direction = "open"
	}
	var keys []batch.Key
	for _, kernel := range cipherKernels() {
		key, err := t.kernelKey(kernel)
		if err != nil {
			return row, err
		}
		keys, row.Sides = append(keys, key), append(row.Sides, CryptoSide{Name: kernel})
	}
	key, err := t.goKey()
	if err != nil {
		return row, err
	}
	keys, row.Sides = append(keys, key), append(row.Sides, CryptoSide{Name: goCalls})
	batches := t.newBatches(size, n)
	var theirs []float64
	for round := range o.Rounds {
		if ctx.Err() != nil {
			return row, ctx.Err()
		}
		for turn := range keys {
			i := (round + turn) % len(keys) // nobody is always the first
			row.Sides[i].Values = append(row.Sides[i].Values, rate(keys[i], batches, open, o.Turn))
		}
		v, known, err := mb.rate(t.name, open, size, n, len(batches), o.Turn)
		if err != nil {
			return row, err
		}
		if known {
			theirs = append(theirs, v)
		}
	}
	if len(theirs) > 0 {
		row.Sides = append(row.Sides, CryptoSide{Name: ipsecMB, Values: theirs})
	}
	for _, jobs := range batches {
		if open && slices.ContainsFunc(jobs, func(j batch.Job) bool { return !j.OK }) {
			return row, fmt.Errorf("%s: what was sealed does not open", t.name)
		}
	}
	for i := range row.Sides {
		s := &row.Sides[i]
		s.Median, s.Spread = median(s.Values), spread(s.Values)
	}
	row.Ratio, row.Low, row.High = ratioOf(row.Sides[0].Values, row.side(goCalls).Values)
	return row, nil
}

// newBatches fills about cryptoSlab octets with jobs, so that the text is where a data path has it: not in the first cache.
func (t transform) newBatches(size, n int) [][]batch.Job {
	head, count := t.headLen(), max(1, cryptoSlab/(size*n))
	out := make([][]batch.Job, count)
	for i := range out {
		out[i] = make([]batch.Job, n)
		for k := range out[i] {
			j := &out[i][k]
			whole := make([]byte, head+size+64)
			j.Head, j.Text = whole[:head:head], whole[head:head+size]
			j.IV[0], j.IV[1], j.IV[2] = byte(k), byte(i), byte(i>>8)
		}
	}
	return out
}

// rate is octets of text a second of this thread's processor time. What is to be opened is sealed before, out of the
// clock's sight.
func rate(key batch.Key, batches [][]batch.Job, open bool, turn time.Duration) float64 {
	octets, took := 0, time.Duration(0)
	for _, jobs := range batches { // whoever had this core before had its caches
		key.Seal(jobs)
	}
	for took < turn {
		if open {
			for _, jobs := range batches {
				key.Seal(jobs)
			}
		}
		begin := threadTime()
		for _, jobs := range batches {
			if open {
				key.Open(jobs)
			} else {
				key.Seal(jobs)
			}
		}
		took += threadTime() - begin
		octets += len(batches) * len(batches[0]) * len(batches[0][0].Text)
	}
	return float64(octets) / took.Seconds()
}
