//! The macro that makes sections of settings from their declaration.

/// Declares sections. Of each key it makes a field of the section's struct and of the struct a file is read into,
/// the environment variable, the check of its limits and its row of the reference: they cannot differ.
macro_rules! declare {
    ($(
        $(#[doc = $about:literal])+
        $section:ident: $type:ident / $layer:ident for [$($program:ident),+] {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $value:ty = $default:expr $(, $range:expr)?;
            )+
        }
    )+) => {
        use $crate::settings::layer::{given, Apply, Layers, Origin};
        use $crate::settings::reference::{KeyReference, SectionReference};
        use $crate::settings::value::Value;

        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $type {
                $( $(#[doc = $doc])+ pub $key: $value, )+
            }

            impl Default for $type {
                fn default() -> Self {
                    Self { $($key: $default,)+ }
                }
            }

            impl $type {
                $(
                    /// Limits of the key; None when every value of its type is allowed.
                    #[allow(clippy::unnecessary_wraps)]
                    fn $key() -> Option<std::ops::RangeInclusive<$value>> {
                        declare!(@range $($range)?)
                    }
                )+
            }

            #[derive(Default, serde::Deserialize)]
            #[serde(default, deny_unknown_fields)]
            struct $layer {
                $( #[serde(deserialize_with = "given")] $key: Option<serde_saphyr::Spanned<$value>>, )+
            }
        )+

        /// All settings of a process. Sections that are for other programs of ours are there too, and ignored.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Settings {
            $( $(#[doc = $about])+ pub $section: $type, )+
        }

        /// A file as it was read.
        #[derive(Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct FileLayer {
            $( $section: Option<$layer>, )+
        }

        impl Layers for Settings {
            type File = FileLayer;

            fn apply_file(&mut self, layer: FileLayer, apply: &mut Apply) {
                $( if let Some(section) = layer.$section {
                    $( if let Some(given) = section.$key {
                        let name = concat!(stringify!($section), ".", stringify!($key));
                        let origin = Origin::Line(given.referenced.line());
                        apply.set(&mut self.$section.$key, given.value, name, origin, $type::$key());
                    } )+
                } )+
            }

            fn apply_variable(&mut self, name: &str, text: &str, apply: &mut Apply) -> bool {
                $( $(
                    let key = concat!(stringify!($section), "_", stringify!($key));
                    if name.eq_ignore_ascii_case(key) {
                        let key = concat!(stringify!($section), ".", stringify!($key));
                        let field = &mut self.$section.$key;
                        apply.read(field, text, key, Origin::Variable(name), $type::$key());
                        return true;
                    }
                )+ )+
                false
            }
        }

        /// What there is to know about every key.
        pub(super) fn reference() -> Vec<SectionReference> {
            let defaults = Settings::default();
            vec![ $( SectionReference {
                name: stringify!($section),
                about: concat!($($about),+),
                programs: &[$($program),+],
                keys: vec![ $( KeyReference {
                    name: stringify!($key),
                    about: concat!($($doc),+),
                    kind: <$value as Value>::KIND,
                    default: defaults.$section.$key.to_string(),
                    limits: $type::$key().map(|range| Value::limits(&range)),
                }, )+ ],
            }, )+ ]
        }
    };
    (@range) => { None };
    (@range $range:expr) => { Some($range) };
}

pub(super) use declare;
