package api

import (
	"maps"
	"math"
	"slices"

	"github.com/godbus/dbus/v5"
)

// decodeOptions makes of the options of Up the changes of a lane's file. Which
// keys there are, and what they may be, is for the configuration to know; here
// are only the types that it has: text, truth, numbers and lists of text.
func decodeOptions(options values) (map[string]any, error) {
	changes := make(map[string]any, len(options))
	for _, name := range slices.Sorted(maps.Keys(options)) {
		v, ok := decodeOption(options[name].Value())
		if !ok {
			return nil, Errorf(InvalidArgument, "option %.40q: type %.40q; use a string, a boolean, a number from 0 to 4294967295 or a list of strings",
				name, options[name].Signature().String())
		}
		changes[name] = v
	}
	return changes, nil
}

func decodeOption(v any) (any, bool) {
	switch v := v.(type) {
	case string, bool, []string:
		return v, true
	case dbus.Variant: // as some bindings wrap twice
		if _, again := v.Value().(dbus.Variant); !again {
			return decodeOption(v.Value())
		}
	case byte:
		return uint32(v), true
	case uint16:
		return uint32(v), true
	case uint32:
		return v, true
	case uint64:
		return uint32(v), v <= math.MaxUint32
	// Bindings make signed numbers of what is plain in their language.
	case int16:
		return uint32(v), v >= 0
	case int32:
		return uint32(v), v >= 0
	case int64:
		return uint32(v), v >= 0 && v <= math.MaxUint32
	}
	return nil, false
}
