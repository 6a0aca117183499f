"""The music app: songs, likes and playlists."""

from __future__ import annotations

from dataclasses import replace

from agentopd.envs.desk.api import ApiError, Json, api
from agentopd.envs.desk.apps.account import FULL, PAGE, Protected, matches
from agentopd.envs.desk.world import Like, Playlist, Song


class Music(Protected, name="music"):
    """Songs, the ones the user likes, and playlists."""

    @api({422: PAGE})
    def search_songs(self, query: str = "", page_index: int = 0, page_limit: int = 5) -> Json:
        """Songs of the catalogue whose title or artist holds the words of the query."""
        found = (song for song in self.world.songs if matches(query, song.title, song.artist))
        return self.page(found, _brief, page_index, page_limit)

    @api({404: "there is no such song"})
    def show_song(self, song_id: int) -> Json:
        """One song with its genre and its length in seconds."""
        song = self._song(song_id)
        self.see(song, "full")
        return {**_brief(song), "genre": song.genre, "seconds": song.seconds}

    @api({422: PAGE})
    def liked_songs(self, page_index: int = 0, page_limit: int = 5) -> Json:
        """The songs the user likes."""
        likes = sorted(self.world.likes, key=lambda like: like.id)
        return self.page(likes, lambda like: _brief(self._song(like.id)), page_index, page_limit)

    @api({404: "there is no such song", 409: "the song is liked already"}, writes=True)
    def like(self, song_id: int) -> Json:
        """Like a song."""
        if self._song(song_id).id in self.world.likes.rows:
            raise ApiError(409, f"song {song_id} is liked already.")
        self.world.likes.insert(Like(id=song_id))
        return {"liked": song_id}

    @api({409: "the song is not liked"}, writes=True)
    def unlike(self, song_id: int) -> Json:
        """Take back a like."""
        if song_id not in self.world.likes.rows:
            raise ApiError(409, f"song {song_id} is not liked; music.liked_songs shows which are.")
        del self.world.likes.rows[song_id]
        return {"unliked": song_id}

    @api({422: PAGE})
    def playlists(self, page_index: int = 0, page_limit: int = 5) -> Json:
        """The user's playlists."""
        return self.page(self.world.playlists, _playlist, page_index, page_limit)

    @api({404: "there is no such playlist"})
    def show_playlist(self, playlist_id: int) -> Json:
        """One playlist with its songs, in order."""
        playlist = self._playlist(playlist_id)
        self.see(playlist, "full")
        songs = [_brief(self.world.songs.rows[song]) for song in playlist.songs]
        return {**_playlist(playlist), "songs": songs}

    @api(
        {
            404: "there is no such song",
            409: f"a song is named twice; {FULL}",
            422: "song_ids are whole numbers",
        },
        writes=True,
    )
    def create_playlist(self, title: str, song_ids: list[int] | None = None) -> Json:
        """Make a playlist of these songs, in this order."""
        songs = tuple(self._song(song).id for song in song_ids or ())
        if len({*songs}) < len(songs):
            raise ApiError(409, "a song is named twice; a playlist holds each song once.")
        made = self.enter(self.world.playlists, Playlist(title=title, songs=songs))
        return {"playlist_id": made.id}

    @api(
        {404: "there is no such song or playlist", 409: "the song is in the playlist already"},
        writes=True,
    )
    def add_song(self, playlist_id: int, song_id: int) -> Json:
        """Put a song at the end of a playlist."""
        playlist, song = self._playlist(playlist_id), self._song(song_id).id
        if song in playlist.songs:
            raise ApiError(409, f"song {song} is in playlist {playlist_id} already.")
        self.world.playlists.insert(replace(playlist, songs=(*playlist.songs, song)))
        return {"added": song}

    @api({404: "there is no such playlist, or the song is not in it"}, writes=True)
    def remove_song(self, playlist_id: int, song_id: int) -> Json:
        """Take a song out of a playlist."""
        playlist = self._playlist(playlist_id)
        if song_id not in playlist.songs:
            raise ApiError(404, f"song {song_id} is not in playlist {playlist_id}.")
        left = tuple(song for song in playlist.songs if song != song_id)
        self.world.playlists.insert(replace(playlist, songs=left))
        return {"removed": song_id}

    @api({404: "there is no such playlist"}, writes=True)
    def delete_playlist(self, playlist_id: int) -> Json:
        """Delete a playlist."""
        del self.world.playlists.rows[self._playlist(playlist_id).id]
        return {"deleted": playlist_id}

    def _song(self, number: object) -> Song:
        if not isinstance(number, int):
            raise ApiError(422, "song_ids are whole numbers; find them with music.search_songs.")
        return self.find(self.world.songs, number, "song", "music.search_songs")

    def _playlist(self, number: int) -> Playlist:
        return self.find(self.world.playlists, number, "playlist", "music.playlists")


def _brief(song: Song) -> Json:
    return {"id": song.id, "title": song.title, "artist": song.artist}


def _playlist(playlist: Playlist) -> Json:
    return {"id": playlist.id, "title": playlist.title, "songs": len(playlist.songs)}
