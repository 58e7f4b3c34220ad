//! How a section of the configuration is declared: every key with its meaning and default in one place,
//! from which serde, the JSON schema, the reference page and the flags' help follow.

/// Declares a section: a struct that takes any of its keys, refuses others, and has these defaults.
macro_rules! section {
    (
        $(#[$outer:meta])*
        $name:ident { $( $(#[$meta:meta])* $key:ident: $type:ty = $default:expr; )+ }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[$meta])* pub $key: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }
    };
}

pub(crate) use section;
