package legacy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"coati/policy"
)

// algorithm is a name of setkey's, and the keywords it has in policy's table, one for each length of key.
type algorithm struct {
	names    []string // the first is printed
	keywords []string
}

// Beside setkey's own names: those of the BSDs for combined modes, and for the MACs that it has no name for. The key of a
// counter mode ends with its salt, four octets (RFC 3686, 4106) or three (RFC 4309).
var encryptions = []algorithm{
	{[]string{"null"}, []string{"null"}},
	{[]string{"aes-cbc", "rijndael-cbc"}, []string{"aes128", "aes192", "aes256"}},
	{[]string{"aes-ctr"}, []string{"aes128ctr", "aes192ctr", "aes256ctr"}},
	{[]string{"aes-gcm-16", "aes-gcm"}, []string{"aes128gcm16", "aes192gcm16", "aes256gcm16"}},
	{[]string{"aes-gcm-12"}, []string{"aes128gcm12", "aes192gcm12", "aes256gcm12"}},
	{[]string{"aes-gcm-8"}, []string{"aes128gcm8", "aes192gcm8", "aes256gcm8"}},
	{[]string{"aes-ccm-16", "aes-ccm"}, []string{"aes128ccm16", "aes192ccm16", "aes256ccm16"}},
	{[]string{"aes-ccm-12"}, []string{"aes128ccm12", "aes192ccm12", "aes256ccm12"}},
	{[]string{"aes-ccm-8"}, []string{"aes128ccm8", "aes192ccm8", "aes256ccm8"}},
	{[]string{"aes-gmac"}, []string{"aes128gmac", "aes192gmac", "aes256gmac"}},
	{[]string{"chacha20-poly1305"}, []string{"chacha20poly1305"}},
	{[]string{"3des-cbc"}, []string{"3des"}},
	{[]string{"des-cbc"}, []string{"des"}},
	{[]string{"blowfish-cbc"}, []string{"blowfish128", "blowfish192", "blowfish256", "blowfish320", "blowfish384", "blowfish448"}},
	{[]string{"cast128-cbc"}, []string{"cast128"}},
	{[]string{"camellia-cbc"}, []string{"camellia128", "camellia192", "camellia256"}},
}

var integrities = []algorithm{
	{[]string{"hmac-sha256", "hmac-sha2-256"}, []string{"sha256"}},
	{[]string{"hmac-sha384", "hmac-sha2-384"}, []string{"sha384"}},
	{[]string{"hmac-sha512", "hmac-sha2-512"}, []string{"sha512"}},
	{[]string{"hmac-sha1"}, []string{"sha1"}},
	{[]string{"hmac-md5"}, []string{"md5"}},
	{[]string{"aes-xcbc-mac"}, []string{"aesxcbc"}},
	{[]string{"aes-cmac"}, []string{"aescmac"}},
	{[]string{hmacSHA256Cut}, []string{"sha256"}},
}

// hmacSHA256Cut is what Linux makes of hmac-sha256 that comes by PF_KEY: cut to 96 bits, as drafts before RFC 4868 said.
const hmacSHA256Cut = "hmac-sha256-96"

// refusedAlgorithms are setkey's names for what is not carried, and why.
var refusedAlgorithms = map[string]string{
	"simple": "is obsolete: write null", "des-deriv": "is obsolete", "des-32iv": "is obsolete", "3des-deriv": "is obsolete",
	"twofish-cbc": "is not carried: no RFC says how", "rc5-cbc": "is not carried", "keyed-md5": "is no MAC for esp: use hmac-sha256",
	"keyed-sha1": "is no MAC for esp: use hmac-sha256", "hmac-ripemd160": "is not carried", "tcp-md5": "is for tcp, which is not carried",
}

// lookup finds an algorithm by one of its names; what is missing is said in words.
func lookup(table []algorithm, what, name string) (*algorithm, error) {
	for i := range table {
		if slices.Contains(table[i].names, name) {
			if len(table[i].rows()) == 0 {
				return nil, fmt.Errorf("%s is not carried by this coati", name)
			}
			return &table[i], nil
		}
	}
	if why := refusedAlgorithms[name]; why != "" {
		return nil, fmt.Errorf("%s %s", name, why)
	}
	var names []string
	for _, a := range table {
		if len(a.rows()) > 0 {
			names = append(names, a.names[0])
		}
	}
	return nil, fmt.Errorf("%sunknown %s algorithm: want one of %s", sayName(name), what, strings.Join(names, ", "))
}

// sayName repeats a name that looks like one and cannot be a key.
func sayName(name string) string {
	if len(name) > 20 || strings.HasPrefix(name, "0x") || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || !strings.Contains(name, "-") {
		return ""
	}
	return fmt.Sprintf("%q is an ", name)
}

// rows of policy's table that esp has.
func (a *algorithm) rows() []*policy.Algorithm {
	var out []*policy.Algorithm
	for _, k := range a.keywords {
		if r := policy.LookupKeyword(k); r != nil && r.Use&policy.UseESP != 0 {
			out = append(out, r)
		}
	}
	return out
}

// fit is the transform for a key of so many octets.
func (a *algorithm) fit(octets int) (policy.Transform, error) {
	var lengths []string
	for _, r := range a.rows() {
		if r.KeyLen == octets {
			return r.Transform(), nil
		}
		lengths = append(lengths, strconv.Itoa(r.KeyLen*8))
	}
	want := lengths[len(lengths)-1]
	if len(lengths) > 1 {
		want = strings.Join(lengths[:len(lengths)-1], ", ") + " or " + want
	}
	return policy.Transform{}, fmt.Errorf("%s takes %s bits, not %d", a.names[0], want, octets*8)
}

func (a *algorithm) keyless() bool {
	rows := a.rows()
	return len(rows) == 1 && rows[0].KeyLen == 0
}

// algorithmName is setkey's name of a transform, or policy's where setkey has none.
func algorithmName(table []algorithm, t policy.Transform) string {
	for i := range table {
		for _, r := range table[i].rows() {
			if r.Transform() == t {
				return table[i].names[0]
			}
		}
	}
	return t.String()
}

// key reads a key: quoted, or 0x and hexadecimal digits. An odd number of digits has a zero in front, as setkey has it.
func key(t token) (policy.Secret, error) {
	if t.kind == quoted {
		if t.text == "" {
			return policy.Secret{}, fmt.Errorf("the key is empty")
		}
		return policy.NewSecret([]byte(t.text)), nil
	}
	digits, ok := strings.CutPrefix(strings.Replace(t.text, "0X", "0x", 1), "0x")
	if !ok || t.kind != word {
		return policy.Secret{}, fmt.Errorf("a key is quoted, or 0x and hexadecimal digits")
	}
	if digits == "" {
		return policy.Secret{}, fmt.Errorf("the key is empty")
	}
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	b := make([]byte, len(digits)/2)
	for i := range b {
		v, err := strconv.ParseUint(digits[2*i:2*i+2], 16, 8)
		if err != nil {
			clear(b)
			return policy.Secret{}, fmt.Errorf("after 0x, a key has hexadecimal digits only")
		}
		b[i] = byte(v)
	}
	return policy.NewSecret(b), nil
}
