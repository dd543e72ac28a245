//! Tiles: up to 256 neighbouring hashes of every eighth level, as files (C2SP tlog-tiles).

use std::{fmt, str::FromStr};

use super::Node;

/// Hashes in a full tile.
pub const TILE_HASHES: u16 = 256;
/// Levels of the tree in a tile.
const TILE_LEVELS: u8 = 8;
const LEVEL_MAX: u8 = 63;

/// A tile's place and width. Level 0 holds leaf hashes; a hash of level L + 1 is the root of a full tile of level L.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// 0 to 63.
    pub level: u8,
    /// From the left, among those of its level.
    pub index: u64,
    /// Hashes: 256 when full, less for a partial tile, never 0.
    pub width: u16,
}

/// Where a node's hash is to be had: it is the root over `count` hashes of a tile, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The tile's level.
    pub level: u8,
    /// The tile's index.
    pub index: u64,
    /// First hash.
    pub first: u16,
    /// A power of two, at most 128.
    pub count: u16,
}

impl Place {
    /// Where a node's hash is; `None` for one beyond any tree.
    pub fn of(node: Node) -> Option<Self> {
        let (level, inner) = (node.level / TILE_LEVELS, node.level % TILE_LEVELS);
        let first = node.index.checked_mul(1 << inner)?;
        Some(Self {
            level,
            index: first / u64::from(TILE_HASHES),
            first: (first % u64::from(TILE_HASHES)) as u16,
            count: 1 << inner,
        })
    }
}

impl Tile {
    /// The tile at this place in a tree of `size` leaves; `None` when it has no hashes there.
    pub fn at(level: u8, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(u32::from(level) * u32::from(TILE_LEVELS)).unwrap_or(0);
        let before = index.checked_mul(u64::from(TILE_HASHES))?;
        let width = hashes.saturating_sub(before).min(u64::from(TILE_HASHES)) as u16;
        (width > 0).then_some(Self { level, index, width })
    }

    /// Whether a tree of `size` leaves has all the hashes of this tile.
    pub fn is_in(&self, size: u64) -> bool {
        Self::at(self.level, self.index, size).is_some_and(|t| t.width >= self.width)
    }
}

/// What is asked for by a path below a log's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TilePath {
    /// `tile/<level>/<index>[.p/<width>]`: hashes.
    Hashes(Tile),
    /// `tile/entries/<index>[.p/<width>]`: the leaves of the tile of level 0.
    Entries {
        /// As of the tile of level 0.
        index: u64,
        /// As of the tile of level 0.
        width: u16,
    },
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, width) = match self {
            Self::Hashes(Tile { level, index, width }) => {
                write!(f, "tile/{level}/")?;
                (*index, *width)
            }
            Self::Entries { index, width } => {
                f.write_str("tile/entries/")?;
                (*index, *width)
            }
        };
        let mut groups = vec![format!("{:03}", index % 1000)];
        let mut rest = index / 1000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1000));
            rest /= 1000;
        }
        groups.reverse();
        f.write_str(&groups.join("/"))?;
        if width == TILE_HASHES { Ok(()) } else { write!(f, ".p/{width}") }
    }
}

/// The text is no tile's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no tile has this path")]
pub struct NoTile;

impl FromStr for TilePath {
    type Err = NoTile;

    fn from_str(path: &str) -> Result<Self, NoTile> {
        let parsed = parse(path).ok_or(NoTile)?;
        // One path for one tile: whatever else could be read so is refused.
        if parsed.to_string() == path { Ok(parsed) } else { Err(NoTile) }
    }
}

fn parse(path: &str) -> Option<TilePath> {
    let (level, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let (groups, width) = match rest.split_once(".p/") {
        Some((groups, width)) => {
            (groups, width.parse().ok().filter(|w| (1..TILE_HASHES).contains(w))?)
        }
        None => (rest, TILE_HASHES),
    };
    let mut index: u64 = 0;
    for group in groups.split('/') {
        let group: u64 = group.strip_prefix('x').unwrap_or(group).parse().ok()?;
        index = index.checked_mul(1000)?.checked_add(group)?;
    }
    if level == "entries" {
        return Some(TilePath::Entries { index, width });
    }
    let level = level.parse().ok().filter(|l| *l <= LEVEL_MAX)?;
    Some(TilePath::Hashes(Tile { level, index, width }))
}
