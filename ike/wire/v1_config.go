package wire

// V1Config is the Attribute payload of a transaction exchange (draft-dukes-ike-mode-cfg-02, section 3.2): mode config and XAUTH.
type V1Config struct {
	Type       V1ConfigType
	Identifier uint16 // an answer has that of its question
	Attributes []Attribute
}

// PayloadType returns PayloadV1Attributes.
func (p *V1Config) PayloadType() PayloadType { return PayloadV1Attributes }

func (p *V1Config) fields(c *coder) {
	u8(c, &p.Type, "attribute message type")
	c.reserved(1)
	u16(c, &p.Identifier, "identifier")
	for i := 0; ; i++ {
		v := element(c, &p.Attributes, i, MaxConfigAttributes, "attributes")
		if v == nil {
			break
		}
		v.fields(c)
	}
}

// V1ConfigType says what a message of a transaction exchange wants.
type V1ConfigType uint8

// The messages of a transaction exchange (draft-dukes-ike-mode-cfg-02, section 3.2).
const (
	ConfigV1Request V1ConfigType = 1
	ConfigV1Reply   V1ConfigType = 2
	ConfigV1Set     V1ConfigType = 3
	ConfigV1Ack     V1ConfigType = 4
)

// The attributes of mode config (section 3.4), of XAUTH (draft-beaulieu-ike-xauth-02, section 6), and Cisco's.
const (
	ConfigV1IP4Address AttributeType = 1
	ConfigV1IP4Netmask AttributeType = 2
	ConfigV1IP4DNS     AttributeType = 3
	ConfigV1Version    AttributeType = 7
	ConfigV1IP6Address AttributeType = 8
	ConfigV1IP6DNS     AttributeType = 10

	ConfigXAuthType     AttributeType = 16520
	ConfigXAuthUser     AttributeType = 16521
	ConfigXAuthPassword AttributeType = 16522
	ConfigXAuthMessage  AttributeType = 16524
	ConfigXAuthStatus   AttributeType = 16527

	ConfigUnityBanner       AttributeType = 28672
	ConfigUnityDomain       AttributeType = 28674
	ConfigUnitySplitInclude AttributeType = 28676
)
